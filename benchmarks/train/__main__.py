"""`python -m benchmarks.train [key=value ...]` is `megafm bench suite=train [key=value ...]`."""

import sys

from megafm.bench import main

if __name__ == "__main__":
    sys.argv.insert(1, "suite=train")
    main()

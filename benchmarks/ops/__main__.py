"""`python -m benchmarks.ops [key=value ...]` is `megafm bench suite=ops [key=value ...]`."""

import sys

from megafm.bench import main

if __name__ == "__main__":
    sys.argv.insert(1, "suite=ops")
    main()

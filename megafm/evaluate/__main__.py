"""`megafm evaluate`, `python -m megafm.evaluate`."""

from __future__ import annotations

from megafm.config import job
from megafm.evaluate.config import EvaluateJob


@job("evaluate")
def main(config: EvaluateJob) -> None:
    from megafm.evaluate.job import evaluate

    evaluate(config)


if __name__ == "__main__":
    main()

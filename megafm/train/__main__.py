"""`megafm train`, `python -m megafm.train`, or `torchrun ... -m megafm.train`."""

from __future__ import annotations

from megafm.config import job
from megafm.train.config import TrainJob


@job("train")
def main(config: TrainJob) -> None:
    from megafm.train.loop import train

    train(config)


if __name__ == "__main__":
    main()

"""The job `megafm data`."""

from __future__ import annotations

from megafm.config import job
from megafm.data.config import DataJob
from megafm.data.inspection import inspect
from megafm.data.prepare import prepare
from megafm.data.tasks import run_task
from megafm.data.tokenization import tokenize
from megafm.tokenizer import Tokenizer


@job("data")
def main(config: DataJob) -> None:
    if config.action == "prepare":
        prepare(config)
    elif config.action == "tokenize":
        tokenize(config.data.dir, Tokenizer.load(config.tokenizer.dir), executor=config.executor)
    elif config.action == "run_task":
        run_task(config.data.dir, config.task)
    else:
        inspect(config.data.dir)


if __name__ == "__main__":
    main()

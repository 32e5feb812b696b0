"""The job `megafm data`."""

from __future__ import annotations

from pathlib import Path

from megafm.config import job
from megafm.data import comparison, inspection
from megafm.data.config import DataFolder, DataJob
from megafm.data.mixing import mix
from megafm.data.prepare import prepare
from megafm.data.prune import prune
from megafm.data.tasks import run_task
from megafm.data.text_models import fit_importance, train_quality
from megafm.data.tokenization import tokenize
from megafm.data.verification import verify
from megafm.files import only_writer
from megafm.tokenizer import Tokenizer


@job("data")
def main(config: DataJob) -> None:
    if config.action in ("prepare", "tokenize"):
        folder = Path(config.data.dir)
        folder.mkdir(parents=True, exist_ok=True)
        with only_writer(folder / ".lock", f"data.dir={folder}"):
            write(config)
    elif config.action == "prune":
        prune(config)
    elif config.action == "train_quality":
        train_quality(config.quality)
    elif config.action == "fit_importance":
        fit_importance(config.importance)
    elif config.action == "mix":
        from megafm.report.mixture import write_mixture_report  # as in `show`

        out, plan = mix(config.mixture)
        print(write_mixture_report(plan, out))
    elif config.action == "run_task":
        run_task(config.data.dir, config.task)
    else:
        show(config.action, config.data)


def write(config: DataJob) -> None:
    if config.action == "prepare":
        prepare(config)
    else:
        tokenizer = Tokenizer.load(config.tokenizer.dir)
        encoder = config.tokenizer.encoder
        tokenize(config.data.dir, tokenizer, executor=config.executor, encoder=encoder)


def show(action: str, data: DataFolder) -> None:
    """The actions on what is there.

    Raises:
        ValueError: the folder does not have it, or a setting is missing.
    """
    if action == "inspect":
        inspection.inspect(data.dir)
    elif action == "stats":
        inspection.stats(data.dir)
    elif action == "sample":
        inspection.sample(data.dir, data.split, data.count)
    elif action == "lookup":
        inspection.show_token(data.dir, data.split, data.token)
    elif action == "report":
        from megafm.report.corpus import write_data_report  # a job may use what stands below it

        print(write_data_report(data.dir))
    elif action == "verify":
        verify(data.dir)
    elif data.other is None:
        raise ValueError("data.other=null: action=diff compares two folders; set data.other=DIR")
    else:
        comparison.diff(data.other, data.dir)


if __name__ == "__main__":
    main()

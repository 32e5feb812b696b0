"""action=prune: what earlier settings have left below data.dir/stages, in bytes, and its removal.

A unit under its present key is kept, as the next run goes on from it; what no stage of the present
settings names, or names under another key, would only be made again for settings of before.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from megafm.data.config import DataJob
from megafm.data.executors import slurm
from megafm.data.prepare import up_to_date
from megafm.data.stages import pipeline
from megafm.data.stages.stage import PARTIAL, Stage, stages_folder
from megafm.data.tokenization import token_stage, tokenizer_dir
from megafm.files import only_writer


def prune(job: DataJob, say: Callable[[str], None] = print) -> int:
    """Say how many bytes of which stages are left over; remove them with `data.delete`.

    Returns:
        How many bytes.

    Raises:
        ValueError: the folder is not one that these settings have made, so that all would go.
    """
    folder, root = Path(job.data.dir), stages_folder(job.data.dir)
    if not up_to_date(job):
        raise ValueError(
            f"data.dir={folder}: not what these settings make of their files, so that none of its "
            "stages is theirs; give the settings of its last run, or run that to its end first"
        )
    with only_writer(folder / ".lock", f"data.dir={folder}"):
        slurm.check_idle(job.data.dir)
        total = 0
        for name, units in sorted(_left_over(job, root).items()):
            size = sum(map(_size, units))
            total += size
            say(f"{name}: {len(units)} units, {size:,} bytes")
            if job.data.delete:
                for unit in units:
                    _remove(unit)
    if total == 0:
        say(f"{root}: nothing is left over")
    elif job.data.delete:
        say(f"{root}: removed {total:,} bytes")
    else:
        say(f"{root}: {total:,} bytes are left over; to remove them, set data.delete=true")
    return total


def _left_over(job: DataJob, root: Path) -> dict[str, list[Path]]:
    """The folders of units that are not present ones, by stage."""
    stages: list[Stage] = [*pipeline(job)]
    if tokenizer_dir(job.data.dir).is_dir():
        stages.append(token_stage(job.data.dir))
    present = {
        stage.folder / unit.name
        for stage in stages
        for unit in stage.units()
        if stage.is_done(unit)
    }
    found: dict[str, list[Path]] = {}
    for path in sorted(root.glob("*/*/")):  # scripts and the tokenizer are files
        if path not in present:
            found.setdefault(path.parent.name, []).append(path)
    return found


def _remove(unit: Path) -> None:
    """Under another name first: what is half gone must not be taken for a unit that is done."""
    partial = unit.with_name(f"{unit.name.removesuffix(PARTIAL)}{PARTIAL}")
    unit.rename(partial)
    shutil.rmtree(partial)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

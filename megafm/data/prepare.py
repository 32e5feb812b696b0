"""action=prepare: sources to clean, unique documents in two splits, and their manifest."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from megafm.data import card, executors, inputs, near_duplicates, sources, split, statistics, steps
from megafm.data.config import DataJob
from megafm.data.document import SPLITS, documents_folder
from megafm.data.executors import slurm
from megafm.data.indexed import shard_paths
from megafm.data.inputs import Inputs
from megafm.data.lines import find_shard
from megafm.data.manifest import (
    FILE_NAME,
    FileSummary,
    Manifest,
    SplitSummary,
    manifest_path,
    snapshot_id,
)
from megafm.data.stages import pipeline, shuffle
from megafm.data.stages.cleaning import reasons
from megafm.data.stages.stage import Stage, check_done, clean_up, stages_folder
from megafm.data.stages.summary import Summary, merge
from megafm.data.stages.tokens import unit_shard
from megafm.data.statistics import Statistics
from megafm.files import publish, staging, write_text


def prepare(job: DataJob, say: Callable[[str], None] = print) -> Manifest | None:
    """Write documents/{train,validation}/*.jsonl and manifest.json into data.dir.

    Does nothing when the folder was made from the same files and settings; goes on where a job
    that was killed had come to. Memory: a few shards, see `stages`.

    Returns:
        None when Slurm jobs will write it and are not waited for.

    Raises:
        ValueError: no document is left, they cannot be split, a shard failed, or Slurm jobs of the
            folder have not ended.
    """
    folder = job.data.dir
    listed = inputs.list_inputs(job.source)
    before = _made_from(listed, job)
    if before is not None:
        say(f"{folder}: up to date, {_describe(before)}")
        return before

    slurm.check_idle(folder)
    inputs.save(listed, stages_folder(folder))
    stages = pipeline(job)
    clean_up(stages)
    if job.executor.kind == "slurm":
        slurm.submit(job, stages, say)
        if not job.executor.wait:
            return None
        manifest = Manifest.load(folder)
    else:
        executors.run(stages, job.executor)
        manifest = finish(job)
    say(f"{folder}: {_describe(manifest)}; left out{reasons(manifest.dropped)}")
    return manifest


def up_to_date(job: DataJob) -> bool:
    """Whether the folder and its stages are what these settings make of the files as they are."""
    listed, root = inputs.list_inputs(job.source), stages_folder(job.data.dir)
    if _made_from(listed, job) is None or not root.is_dir():
        return False
    saved = inputs.load(root)
    return [run.key for run in saved.runs] == [run.key for run in listed.runs]


def finish(job: DataJob) -> Manifest:
    """Publish what the stages have left.

    Raises:
        ValueError: a shard of a stage is not done with these settings.
    """
    stages = pipeline(job)
    check_done(stages)
    listed = inputs.load(stages_folder(job.data.dir))
    gathered = {output.name: Summary.load(output.folder) for output in stages[-1].outputs()}
    splits = {
        split: merge(summary for name, summary in gathered.items() if name.startswith(split))
        for split in SPLITS
    }
    found = statistics.collect(listed, stages, splits)
    manifest = _manifest(job, listed, gathered, splits, found)
    return _publish(job.data.dir, manifest, found, stages[-1])


def _manifest(
    job: DataJob,
    listed: Inputs,
    gathered: dict[str, Summary],
    splits: dict[str, Summary],
    found: Statistics,
) -> Manifest:
    everything = merge(splits.values())
    left_out: Counter[str] = Counter()
    for loss in found.funnel:
        left_out.update(loss.dropped)
    rules = _rules(job)
    return Manifest(
        corpus=listed.corpus,
        snapshot_id=snapshot_id(everything.fingerprint, rules),
        inputs_hash=_inputs_hash(listed, job),
        rules=rules,
        splits={n: SplitSummary(s.num_documents, s.num_bytes) for n, s in splits.items()},
        sources=everything.sources(),
        dropped=dict(sorted(left_out.items())),
        skipped_packages=listed.skipped_packages,
        files={
            unit_shard(name): FileSummary(
                summary.lines_hash, summary.num_documents, summary.num_bytes
            )
            for name, summary in gathered.items()
        },
    )


def _publish(folder: str, manifest: Manifest, found: Statistics, gather: Stage) -> Manifest:
    """Replace the folder's contents once all of the new ones are on the disk."""
    before = _existing(folder)
    same = before is not None and before.files == manifest.files
    if same and before is not None and before.tokenizer_hash is not None:
        manifest = manifest.with_tokens(before.tokens, before.tokenizer_hash, before.token_files)
    with staging(folder) as stage:
        for output in gather.outputs():
            made = find_shard(output.folder, "documents")
            suffix = made.name.removeprefix("documents")
            place = stage / "documents" / f"{unit_shard(output.name)}{suffix}"
            place.parent.mkdir(parents=True, exist_ok=True)
            _link(made, place)
        manifest.save(stage)
        found.save(stage)
        write_text(stage / card.FILE_NAME, card.card(manifest, found))
        if not same:  # the shards are of other documents
            manifest_path(folder).unlink(missing_ok=True)
            for name in SPLITS:
                for path in shard_paths(Path(folder) / name):
                    path.unlink(missing_ok=True)
        for name in SPLITS:
            shutil.rmtree(documents_folder(folder, name), ignore_errors=True)
        publish(stage, folder, last=FILE_NAME)
    return manifest


def _link(made: Path, place: Path) -> None:
    """The same file under another name, where the file system has such."""
    try:
        os.link(made, place)
    except OSError:
        shutil.copyfile(made, place)


def _rules(job: DataJob) -> tuple[str, ...]:
    """The versions and settings of everything that decides which document goes where."""
    return (
        sources.VERSION,
        *steps.pipeline(job.source, job.steps).versions,
        f"{near_duplicates.VERSION} {job.near_duplicates}",
        f"{split.VERSION} {job.split}",
        f"{shuffle.VERSION} {job.shuffle}",
    )


def _inputs_hash(listed: Inputs, job: DataJob) -> str:
    made_from = [_rules(job), listed.corpus, [run.key for run in listed.runs]]
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()


def _existing(folder: str) -> Manifest | None:
    """The manifest that is there, if the documents that it speaks of are there too."""
    try:
        manifest = Manifest.load(folder)
    except ValueError:
        return None
    there = (find_shard(Path(folder) / "documents", name).is_file() for name in manifest.files)
    return manifest if all(there) else None


def _made_from(listed: Inputs, job: DataJob) -> Manifest | None:
    """The manifest that is there, if it is of these files and settings."""
    found = _existing(job.data.dir)
    if found is None or found.inputs_hash != _inputs_hash(listed, job):
        return None
    return found if Statistics.there(job.data.dir) else None


def _describe(manifest: Manifest) -> str:
    sizes = ", ".join(
        f"{name} {summary.documents} documents {summary.bytes / 1e6:.1f} MB"
        for name, summary in manifest.splits.items()
    )
    return f"{manifest.corpus}: {sizes}, snapshot {manifest.snapshot_id[:12]}"

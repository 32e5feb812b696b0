"""action=prepare: files to clean, unique documents in two splits, and their manifest."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import track

from megafm.config import config_hash
from megafm.data import near_duplicates, sources, split, steps
from megafm.data.config import DataJob, NearDuplicates
from megafm.data.document import (
    SPLITS,
    Document,
    Drop,
    documents_path,
    write_documents,
)
from megafm.data.indexed import shard_paths
from megafm.data.manifest import (
    FILE_NAME,
    Manifest,
    SplitSummary,
    manifest_path,
    snapshot_id,
    summarise_sources,
)
from megafm.data.sources import Listing, Source, list_shards, read_shard
from megafm.files import publish, staging


def prepare(job: DataJob, say: Callable[[str], None] = print) -> Manifest:
    """Write documents/{train,validation}.jsonl and manifest.json into data.dir.

    Does nothing when the folder was made from the same files and settings. Memory: the corpus,
    about three times over.

    Raises:
        ValueError: no document is left, or they cannot be split.
    """
    folder = job.data.dir
    listing = list_shards(job.source)
    inputs = _inputs_hash(listing, job)
    before = _existing(folder)
    if before is not None and before.inputs_hash == inputs:
        say(f"{folder}: up to date, {_describe(before)}")
        return before

    documents, dropped = clean(listing, job)
    if not documents:
        raise ValueError(
            f"{_where(job.source)}: no document to learn from; left out{_reasons(dropped)}; "
            "set source.path or source.pattern to text files"
        )
    documents, cluster, removed = deduplicate(documents, job.near_duplicates)
    dropped.update(removed)
    validation = split.validation_rows(documents, cluster, job.split)
    splits = {
        "train": [d for row, d in enumerate(documents) if row not in validation],
        "validation": [d for row, d in enumerate(documents) if row in validation],
    }
    rules = _rules(job)
    manifest = Manifest(
        corpus=listing.corpus,
        snapshot_id=snapshot_id(splits, rules),
        inputs_hash=inputs,
        rules=rules,
        splits={
            name: SplitSummary(len(splits[name]), sum(d.num_bytes for d in splits[name]))
            for name in SPLITS
        },
        sources=summarise_sources(documents),
        dropped=dict(sorted(dropped.items())),
        skipped_packages=listing.skipped_packages,
    )
    manifest = _save(folder, manifest, splits, before)
    say(f"{folder}: {_describe(manifest)}; left out{_reasons(dropped)}")
    return manifest


def clean(listing: Listing, job: DataJob) -> tuple[list[Document], Counter[str]]:
    """Read the listed files and take each document through the cleaning steps."""
    dropped = Counter(listing.dropped)
    documents: list[Document] = []
    pipeline = steps.pipeline(job.source, job.steps)
    console = Console(stderr=True)
    hidden = not console.is_terminal
    for shard in track(listing.shards, "reading", console=console, disable=hidden):
        for result in read_shard(job.source, shard):
            if isinstance(result, Document):
                result = pipeline.run(result)
            if isinstance(result, Drop):
                dropped[result.reason] += 1
            else:
                documents.append(result)
    return documents, dropped


def deduplicate(
    documents: list[Document], config: NearDuplicates
) -> tuple[list[Document], list[int], Counter[str]]:
    """Keep one document of each set of copies, the smallest id.

    Returns:
        The kept documents by id, for each the number of its cluster, and the counts removed.
        Clusters are formed before removal, so that a removed document still ties its two
        neighbours to one split.
    """
    documents = sorted(documents, key=lambda document: document.id)
    first: dict[str, Document] = {}
    for document in documents:
        first.setdefault(document.sha256, document)
    unique = list(first.values())
    pairs = near_duplicates.similar_pairs([document.encoded for document in unique], config)
    removed = near_duplicates.removals(len(unique), pairs, config.remove_at)
    cluster = near_duplicates.clusters(len(unique), pairs)
    kept = [row for row in range(len(unique)) if row not in removed]
    counts = Counter(
        exact_duplicate=len(documents) - len(unique), near_duplicate=len(unique) - len(kept)
    )
    return [unique[row] for row in kept], [cluster[row] for row in kept], +counts


def _save(
    folder: str, manifest: Manifest, splits: dict[str, list[Document]], before: Manifest | None
) -> Manifest:
    """Replace the folder's contents once all of the new ones are on the disk."""
    same = before is not None and before.snapshot_id == manifest.snapshot_id
    if same and before is not None and before.tokenizer_hash is not None:
        manifest = manifest.with_tokens(before.tokens, before.tokenizer_hash)
    with staging(folder) as stage:
        for name in SPLITS:
            write_documents(stage, name, splits[name])
        manifest.save(stage)
        if not same:  # the shards are of other documents
            manifest_path(folder).unlink(missing_ok=True)
            for name in SPLITS:
                for path in shard_paths(Path(folder) / name):
                    path.unlink(missing_ok=True)
        publish(stage, folder, last=FILE_NAME)
    return manifest


def _rules(job: DataJob) -> tuple[str, ...]:
    """The versions and settings of everything that decides which document goes where."""
    return (
        sources.VERSION,
        *steps.pipeline(job.source, job.steps).versions,
        f"{near_duplicates.VERSION} {job.near_duplicates}",
        f"{split.VERSION} {job.split}",
    )


def _inputs_hash(listing: Listing, job: DataJob) -> str:
    digest = hashlib.sha256(json.dumps(_rules(job)).encode())
    digest.update(config_hash(job.source).encode())
    digest.update(listing.corpus.encode())
    for shard in listing.shards:
        digest.update(f"{shard.name}\0{shard.part}\0{shard.size}\0{shard.version}\n".encode())
    return digest.hexdigest()


def _existing(folder: str) -> Manifest | None:
    """The manifest that is there, if the documents that it speaks of are there too."""
    if not all(documents_path(folder, name).is_file() for name in SPLITS):
        return None
    try:
        return Manifest.load(folder)
    except ValueError:
        return None


def _where(source: Source) -> str:
    if source.kind == "python_installation":
        return f"source.kind={source.kind}"
    return f"source.path={source.path} source.pattern={source.pattern}"


def _reasons(dropped: Counter[str]) -> str:
    if not dropped:
        return " nothing"
    return ": " + ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items()))


def _describe(manifest: Manifest) -> str:
    sizes = ", ".join(
        f"{name} {summary.documents} documents {summary.bytes / 1e6:.1f} MB"
        for name, summary in manifest.splits.items()
    )
    return f"{manifest.corpus}: {sizes}, snapshot {manifest.snapshot_id[:12]}"

"""action=tokenize: the documents of both splits to token shards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from megafm.data import executors
from megafm.data.config import DataFolder, DataJob, EncoderName, Encoding, Executor
from megafm.data.document import SPLITS
from megafm.data.executors import slurm
from megafm.data.indexed import IndexedDataset, merge, shard_paths
from megafm.data.manifest import FILE_NAME, Manifest
from megafm.data.stages.stage import check_done, clean_up, hash_file, stages_folder
from megafm.data.stages.tokens import Tokenize
from megafm.files import publish, staging
from megafm.tokenizer import Tokenizer
from megafm.tokenizer.giga import Gigatoken


def tokenize(
    data_dir: str,
    tokenizer: Tokenizer,
    say: Callable[[str], None] = print,
    executor: Executor | None = None,
    encoder: EncoderName = "tokenizers",
) -> Manifest | None:
    """Write {train,validation}.{bin,idx}: a sequence per document, each closed by <|endoftext|>.

    Documents keep the order that they were shuffled to. Does nothing when the shards are
    of this tokenizer, and goes on where a job that was killed had come to.

    Returns:
        None when Slurm jobs will write them and are not waited for.

    Raises:
        ValueError: no documents, a shard failed, the encoder does not fit the tokenizer, or Slurm
            jobs of the folder have not ended.
    """
    manifest = Manifest.load(data_dir)
    if manifest.tokenizer_hash == tokenizer.hash and _complete(data_dir, manifest):
        say(f"{data_dir}: up to date, {_describe(manifest)}")
        return manifest
    if not tokenizer.lossless:
        say("the tokenizer changes white space or characters: text does not decode to itself")
    if encoder == "gigatoken":
        Gigatoken(tokenizer)  # refused here, before any work
    slurm.check_idle(data_dir)
    tokenizer.save(tokenizer_dir(data_dir))
    stage = token_stage(data_dir, encoder)
    clean_up([stage])
    executor = executor or Executor()
    if executor.kind == "slurm":
        job = DataJob(
            action="tokenize",
            data=DataFolder(data_dir),
            tokenizer=Encoding(encoder=encoder),
            executor=executor,
        )
        slurm.submit(job, [stage], say)
        if not executor.wait:
            return None
        manifest = Manifest.load(data_dir)
    else:
        executors.run([stage], executor)
        manifest = finish(stage)
    say(f"{data_dir}: {_describe(manifest)}")
    return manifest


def token_stage(data_dir: str, encoder: EncoderName = "tokenizers") -> Tokenize:
    """The stage, with the copy of the tokenizer that lies beside its units."""
    folder = tokenizer_dir(data_dir)
    tokenizer_hash = Tokenizer.load(folder).hash
    return Tokenize(stages_folder(data_dir), data_dir, str(folder), tokenizer_hash, encoder)


def tokenizer_dir(data_dir: str) -> Path:
    """Where the copy is."""
    return stages_folder(data_dir) / "tokenizer"


def finish(stage: Tokenize) -> Manifest:
    """Merge the units to a shard of each split.

    Raises:
        ValueError: a shard is not tokenized with this tokenizer.
    """
    check_done([stage])
    data_dir = stage.data_dir
    manifest = Manifest.load(data_dir)
    with staging(data_dir) as new:
        tokens = {}
        for name in SPLITS:
            units = [output for output in stage.outputs() if output.name.startswith(f"{name}-")]
            tokens[name] = merge(new / name, [output.folder / "tokens" for output in units])
        files = [path for name in SPLITS for path in shard_paths(new / name)]
        hashes = {path.name: hash_file(path) for path in files}
        tokenized = manifest.with_tokens(tokens, stage.tokenizer_hash, hashes)
        tokenized.save(new)
        manifest.without_tokens().save(data_dir)  # nothing vouches for shards that are half new
        publish(new, data_dir, last=FILE_NAME)
    return tokenized


def check_tokenizer(data_dir: str, tokenizer: Tokenizer) -> Manifest:
    """The manifest of a data folder whose shards hold this tokenizer's tokens.

    Raises:
        ValueError: there are no shards yet, or they are another tokenizer's.
    """
    manifest = Manifest.load(data_dir)
    remedy = f"run: megafm data action=tokenize data.dir={data_dir} tokenizer.dir=DIR"
    if manifest.tokenizer_hash is None:
        raise ValueError(f"data.dir={data_dir}: documents are not tokenized yet; {remedy}")
    if manifest.tokenizer_hash != tokenizer.hash:
        raise ValueError(
            f"data.dir={data_dir}: its shards were written with tokenizer "
            f"{manifest.tokenizer_hash[:12]}, this one is {tokenizer.hash[:12]}; {remedy}"
        )
    return manifest


def _complete(data_dir: str, manifest: Manifest) -> bool:
    try:
        shards = {name: IndexedDataset(Path(data_dir) / name) for name in SPLITS}
    except ValueError:
        return False
    return manifest.tokens == {name: shard.num_tokens for name, shard in shards.items()}


def _describe(manifest: Manifest) -> str:
    return ", ".join(
        f"{name} {tokens:,} tokens ({manifest.splits[name].bytes / max(tokens, 1):.2f} bytes/token)"
        for name, tokens in manifest.tokens.items()
    )

"""The settings of the data job."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from megafm.data.sources.config import Source
from megafm.paths import DataDir, TokenizerDir

EncoderName = Literal["tokenizers", "gigatoken"]


@dataclass(frozen=True)
class DataFolder(DataDir):
    """The folder that the job writes or shows.

    Attributes:
        split, count: of action=sample: so many documents.
        token: of action=lookup: a position in the token shard of the split.
        other: of action=diff: the folder that `dir` is compared with.
        delete: of action=prune: remove what it lists.
    """

    split: Literal["train", "validation"] = "train"
    count: int = 5
    token: int | None = None
    other: str | None = None
    delete: bool = False


@dataclass(frozen=True)
class BlendPart:
    """A data folder whose training shard is part of a blend, and its weight among the others."""

    dir: str
    weight: float

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise ValueError(
                f"data.blend: weight={self.weight} of {self.dir}: must be a number above 0; "
                "leave out what has no share"
            )


@dataclass(frozen=True)
class TrainingStage:
    """A part of a run.

    Attributes:
        tokens: of the stage; the last one goes on until the run ends.
        blend: as `TrainingData.blend`; data.dir where it is empty.
    """

    tokens: int
    blend: tuple[BlendPart, ...] = ()
    name: str = ""

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ValueError(
                f"data.stages: tokens={self.tokens} of stage {self.name!r}: must be positive; "
                "leave the stage out"
            )


@dataclass(frozen=True)
class TrainingData(DataDir):
    """What a training run reads.

    Attributes:
        dir: the folder of the validation shard, and without a blend of the training shard.
        blend: the folders of the training shards; of any number of samples each gives its share to
            within one, e.g. data.blend=[{dir:runs/web/data,weight:0.8},{dir:runs/code/data,...}].
        stages: instead of one blend, one after another: data.stages=[{name:main,tokens:900000000,
            blend:[...]},{name:anneal,tokens:100000000,blend:[...]}]; action=mix plans them.
        packing: stream cuts all documents, end to end, into windows, and tokens see those of the
            documents before theirs; best_fit packs whole documents, each of which sees itself.
        token_dtype, eod_id: of token files made elsewhere that do not say: the type of a token, ""
            for the usual one, and the id that ends documents.
    """

    blend: tuple[BlendPart, ...] = ()
    stages: tuple[TrainingStage, ...] = ()
    packing: Literal["stream", "best_fit"] = "stream"
    token_dtype: Literal["", "uint16", "uint32", "int32", "int64"] = ""
    eod_id: int | None = None

    def __post_init__(self) -> None:
        if self.blend and self.stages:
            raise ValueError(
                "data.blend, data.stages: both are set; put the blend into a stage: "
                "data.blend=[] data.stages=[{tokens:...,blend:[...]}]"
            )
        for number, stage in enumerate(self.stages):
            dirs = [part.dir for part in stage.blend]
            if len(set(dirs)) < len(dirs):
                raise ValueError(
                    f"data.stages: {max(dirs, key=dirs.count)} stands twice in stage {number}; "
                    "add its weights"
                )

    @property
    def folders(self) -> list[str]:
        """Those whose training shards are read, each once."""
        blends = [stage.blend for stage in self.stages] or [self.blend]
        every = [part.dir for blend in blends for part in blend or (BlendPart(self.dir, 1.0),)]
        return list(dict.fromkeys(every))


@dataclass(frozen=True)
class Steps:
    """What documents go through, by name (megafm/data/steps/registry.py, or MODULE:CLASS) and in
    this order, each with the settings that are not its defaults.

    Attributes:
        transform: steps, which change a document or drop it.
        signals: measured although no rule needs them, or with other settings.
        rules: thresholds on what was measured.
        corpus: steps between transform and signals that compare documents with each other.
    """

    transform: dict[str, dict[str, Any]] = field(default_factory=dict)
    signals: dict[str, dict[str, Any]] = field(default_factory=dict)
    rules: dict[str, dict[str, Any]] = field(default_factory=dict)
    corpus: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class NearDuplicates:
    """Jaccard similarity of sets of shingles; candidates are found by MinHash.

    A document is removed when it is at least `remove_at` similar to one that is kept. Documents
    at least `cluster_at` similar, directly or through others, go to the same split.

    Attributes:
        unit, width: a shingle is so many words, or characters, in a row.
        lowercase: take A-Z as a-z.
        num_bands, band_rows: of the signature. A pair of similarity s becomes a candidate with
            probability 1 - (1 - s**band_rows)**num_bands; 14 bands of 8 rows are common for text
            where only `remove_at` counts.
    """

    remove_at: float = 0.8
    cluster_at: float = 0.5
    unit: Literal["words", "characters"] = "words"
    width: int = 5
    lowercase: bool = False
    num_bands: int = 32
    band_rows: int = 4

    def __post_init__(self) -> None:
        if not 0.3 <= self.cluster_at <= self.remove_at <= 1.0:
            raise ValueError(
                f"near_duplicates.cluster_at={self.cluster_at}, remove_at={self.remove_at}: "
                "need 0.3 <= cluster_at <= remove_at <= 1; set cluster_at=0.5 remove_at=0.8"
            )
        for name in ("width", "num_bands", "band_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"near_duplicates.{name}={getattr(self, name)}: must be positive")
        found = 1 - (1 - self.remove_at**self.band_rows) ** self.num_bands
        if found < 0.5:
            warnings.warn(
                f"near_duplicates.num_bands={self.num_bands}, band_rows={self.band_rows}: of the "
                f"pairs that are remove_at={self.remove_at} similar {found:.0%} are found; set "
                "num_bands=32 band_rows=4",
                stacklevel=3,
            )


@dataclass(frozen=True)
class Split:
    """How much goes to validation: a share of the corpus, at most so many bytes."""

    validation_fraction: float = 0.02
    max_validation_bytes: int = 1_000_000
    seed: int = 1234

    def __post_init__(self) -> None:
        if not 0.0 <= self.validation_fraction <= 0.5:
            raise ValueError(
                f"split.validation_fraction={self.validation_fraction}: "
                "must be between 0 and 0.5; set split.validation_fraction=0.02"
            )
        if self.max_validation_bytes < 1:
            raise ValueError(
                f"split.max_validation_bytes={self.max_validation_bytes}: must be positive; "
                "set split.validation_fraction=0 for no validation split"
            )


@dataclass(frozen=True)
class Shuffle:
    """The order of the documents of a split."""

    seed: int = 1234


@dataclass(frozen=True)
class Task:
    """Which share of which stage action=run_task does; the executor says so."""

    stage: str = ""
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(
                f"task.rank={self.rank}: must be from 0 to task.world_size={self.world_size} - 1"
            )


@dataclass(frozen=True)
class Executor:
    """Where the units of the pipeline run; the outcome is the same everywhere.

    Attributes:
        kind: processes of this machine, arrays of Slurm jobs, or tasks of Ray.
        workers: processes, tasks of an array, or tasks of Ray at a time; null is one per core.
        retries: of a unit that failed for another reason than a setting.
        address: of a Ray cluster; null starts one here.
        sbatch: options of Slurm: {partition: cpu, time: "12:00:00", mem: 8G}.
        wait: for the Slurm jobs to end.
    """

    kind: Literal["local", "slurm", "ray"] = "local"
    workers: int | None = None
    retries: int = 2
    address: str | None = None
    sbatch: dict[str, str] = field(default_factory=dict)
    wait: bool = True

    def __post_init__(self) -> None:
        if self.kind == "slurm" and self.workers is None:
            raise ValueError(
                "executor.workers=null: executor.kind=slurm needs the number of tasks of an array; "
                "set executor.workers=16"
            )
        if self.address is not None and self.kind != "ray":
            _warn_no_effect(f"executor.address={self.address}", self.kind)
        if (self.sbatch or not self.wait) and self.kind != "slurm":
            _warn_no_effect("executor.sbatch, executor.wait", self.kind)
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"executor.workers={self.workers}: set executor.workers=1 or more")
        if self.retries < 0:
            raise ValueError(f"executor.retries={self.retries}: set executor.retries=0 or more")


@dataclass(frozen=True)
class Mixture:
    """
    Attributes:
        by: what groups are.
        weights: of groups, of any sum, e.g. {web: 45, code: 20, academic: 10, books: 10,
            structured: 10, dialogue: 5}; without them temperature decides between groups too.
        temperature: 1 is by size, more is more even.
        max_epochs: over the whole run.
    """

    by: Literal["source", "domain", "language"] = "domain"
    weights: Mapping[str, float] = field(default_factory=dict)
    temperature: float = 1.0
    max_epochs: float = 4.0

    def __post_init__(self) -> None:
        for group, weight in self.weights.items():
            if not 0 < weight < math.inf:
                raise ValueError(
                    f"mixture.weights.{group}={weight}: must be a number above 0; "
                    "leave out what has no share"
                )
        for name in ("temperature", "max_epochs"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"mixture.{name}={getattr(self, name)}: must be positive; set 1")


@dataclass(frozen=True)
class MixtureStage(Mixture):
    """A part of a run, with a share of its tokens; shares are of any sum."""

    name: str = "all"
    share: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share < math.inf:
            raise ValueError(f"mixture.stages: share={self.share} of {self.name}: must be above 0")


@dataclass(frozen=True)
class MixturePart:
    """A data folder of a mixture, and what it is.

    Attributes:
        tokens: of token files made elsewhere; of our folders the manifest says it.
    """

    dir: str
    source: str = ""
    domain: str = ""
    language: str = ""
    tokens: int | None = None


@dataclass(frozen=True)
class MixturePlan:
    """Of action=mix.

    Attributes:
        tokens: of the whole run; null is as many as the parts hold.
        out: a folder for mixture.json and report.html.
    """

    parts: tuple[MixturePart, ...] = ()
    stages: tuple[MixtureStage, ...] = (MixtureStage(),)
    tokens: int | None = None
    out: str | None = None


@dataclass(frozen=True)
class QualityModel:
    """Of action=train_quality: folders of good texts and of others, and where the model goes."""

    good: str | None = None
    other: str | None = None
    out: str | None = None


@dataclass(frozen=True)
class ImportanceModel:
    """Of action=fit_importance: texts of the target, of the corpus, and the model's folder."""

    target: str | None = None
    corpus: str | None = None
    out: str | None = None


@dataclass(frozen=True)
class Encoding(TokenizerDir):
    """
    Attributes:
        encoder: of action=tokenize. gigatoken is many times faster where it knows how a tokenizer
            cuts text into words; it is refused where it gives other ids than tokenizers.
    """

    encoder: EncoderName = "tokenizers"


@dataclass(frozen=True)
class DataJob:
    what: str = "read, deduplicate and split documents; write token shards; show them"
    action: Literal[
        "prepare",
        "tokenize",
        "inspect",
        "stats",
        "sample",
        "lookup",
        "diff",
        "report",
        "verify",
        "prune",
        "train_quality",
        "fit_importance",
        "mix",
        "run_task",
    ] = "prepare"
    data: DataFolder = field(default_factory=DataFolder)
    tokenizer: Encoding = field(default_factory=Encoding)  # of action=tokenize
    source: Source = field(default_factory=Source)
    steps: Steps = field(default_factory=Steps)
    near_duplicates: NearDuplicates = field(default_factory=NearDuplicates)
    split: Split = field(default_factory=Split)
    shuffle: Shuffle = field(default_factory=Shuffle)
    executor: Executor = field(default_factory=Executor)
    quality: QualityModel = field(default_factory=QualityModel)
    importance: ImportanceModel = field(default_factory=ImportanceModel)
    mixture: MixturePlan = field(default_factory=MixturePlan)
    task: Task = field(default_factory=Task)


def _warn_no_effect(setting: str, kind: str) -> None:
    warnings.warn(f"{setting}: no effect with executor.kind={kind}", stacklevel=4)

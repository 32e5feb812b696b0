"""The samples that a training run reads, from its settings."""

from __future__ import annotations

from itertools import accumulate, pairwise
from pathlib import Path

from megafm.data.blend import Blend
from megafm.data.config import BlendPart, TrainingData
from megafm.data.curriculum import Curriculum, CurriculumStage
from megafm.data.packed import PackedDocuments
from megafm.data.samples import Samples
from megafm.data.token_formats import Headerless
from megafm.data.windows import TokenWindows


def training_samples(data: TrainingData, seq_len: int, seed: int) -> Samples:
    """The training shards of data.blend or data.stages, or of data.dir alone, in one order.

    Raises:
        ValueError: a shard is missing, cut off or too short, or a stage has no sample.
    """
    kind = TokenWindows if data.packing == "stream" else PackedDocuments
    headerless = Headerless(data.token_dtype, data.eod_id)
    sources: dict[str, Samples] = {
        folder: kind(Path(folder) / "train", seq_len, seed, headerless) for folder in data.folders
    }
    if data.stages:
        return Curriculum(sources, _stages(data, seq_len))
    parts = data.blend or (BlendPart(data.dir, 1.0),)
    if len(parts) == 1:
        return sources[parts[0].dir]
    return Blend([sources[part.dir] for part in parts], [part.weight for part in parts])


def _stages(data: TrainingData, seq_len: int) -> list[CurriculumStage]:
    """In samples. A stage ends with the sample that holds its last token."""
    ends = [-(-tokens // seq_len) for tokens in accumulate(stage.tokens for stage in data.stages)]
    stages = []
    for number, (begin, end) in enumerate(pairwise([0, *ends])):
        stage = data.stages[number]
        if begin == end:
            raise ValueError(
                f"data.stages: tokens={stage.tokens} of stage {number}: not one sample of "
                f"train.seq_len={seq_len}; set tokens={seq_len} or more"
            )
        parts = stage.blend or (BlendPart(data.dir, 1.0),)
        weights = {part.dir: part.weight for part in parts}
        stages.append(CurriculumStage(stage.name or str(number), weights, end - begin))
    return stages

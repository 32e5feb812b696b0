"""action=mix: from data folders and a mixture to the `data.blend` or `data.stages` of a run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from megafm.config import to_dict
from megafm.data.config import BlendPart, MixturePart, MixturePlan
from megafm.data.manifest import Manifest
from megafm.data.mixture import Part, Share, Stage, blend, curriculum
from megafm.files import write_text

Plan = dict[str, list[Share]]  # by the name of the stage


def mix(config: MixturePlan, console: Console | None = None) -> tuple[Path, Plan]:
    """Print and write (mixture.json) what each stage sees of each part; the folder, and the plan.

    Raises:
        ValueError: a setting is missing, a folder has no tokens, or the parts cannot give what is
            asked of them.
    """
    if config.out is None:
        raise ValueError("mixture.out=null: set mixture.out=DIR, where the plan is to be written")
    if not config.parts:
        raise ValueError(
            "mixture.parts=[]: set mixture.parts=[{dir:runs/web/data,domain:web},...], the folders "
            "of the token shards"
        )
    found = parts(config.parts)
    stages = stages_of(config, sum(part.tokens for part in found))
    for stage in stages:
        _check_labels(stage, found)
    plan = curriculum(found, stages)
    console = console or Console()
    for name, shares in plan.items():
        console.print(table(name, shares))
    console.print(f"\nmegafm train {override(stages, plan)}", soft_wrap=True)
    stored = {
        name: {
            "shares": [{**dataclasses.asdict(one), "epochs": one.epochs} for one in shares],
            "blend": [to_dict(part) for part in blend(shares)],
        }
        for name, shares in plan.items()
    }
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "mixture.json", json.dumps(stored, indent=1) + "\n")
    return out, plan


def parts(configs: Sequence[MixturePart]) -> list[Part]:
    """With the tokens that the manifests state.

    Raises:
        ValueError: a folder without tokens, or one that stands there twice.
    """
    found: dict[str, Part] = {}
    for one in configs:
        if one.dir in found:
            raise ValueError(f"mixture.parts: {one.dir} stands there twice; leave one out")
        tokens = one.tokens or Manifest.load(one.dir).tokens.get("train")
        if tokens is None:
            raise ValueError(
                f"mixture.parts: {one.dir} has no tokens yet; "
                f"run: megafm data action=tokenize data.dir={one.dir}"
            )
        found[one.dir] = Part(one.dir, tokens, one.source, one.domain, one.language)
    return list(found.values())


def stages_of(config: MixturePlan, held: int) -> list[Stage]:
    """The stages with their tokens, which add up to those of the run.

    Raises:
        ValueError: there is none, or two of one name.
    """
    names = [stage.name for stage in config.stages]
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"mixture.stages: names {names}: need one stage or more, each of its own name; "
            "set mixture.stages=[{name:main,share:0.9},{name:anneal,share:0.1}]"
        )
    total = held if config.tokens is None else config.tokens
    whole = sum(stage.share for stage in config.stages)
    stages, done, ahead = [], 0, 0.0
    for stage in config.stages:
        ahead += stage.share
        until = round(total * ahead / whole)
        stages.append(Stage(stage.name, until - done, stage))
        done = until
    return stages


def table(title: str, shares: Sequence[Share]) -> Table:
    """Asked and given weights, tokens and epochs of each part."""
    shown = Table(title=title, title_justify="left")
    for name in COLUMNS:
        shown.add_column(name, justify="left" if name == "part" else "right")
    for row in rows(shares):
        shown.add_row(*map(str, row))
    return shown


COLUMNS = ("part", "asked", "given", "tokens", "of", "epochs")


def rows(shares: Sequence[Share]) -> list[tuple[str, ...]]:
    """Of COLUMNS."""
    return [
        (
            share.part.dir,
            f"{share.asked:.2%}",
            f"{share.weight:.2%}",
            f"{share.tokens:,.0f}",
            f"{share.part.tokens:,}",
            f"{share.epochs:.2f}",
        )
        for share in shares
    ]


def override(stages: Sequence[Stage], plan: Plan) -> str:
    """What the run is told, in Hydra's grammar and between the double quotes of a shell."""
    blends = {stage.name: _blend_override(blend(plan[stage.name])) for stage in stages}
    if len(stages) == 1:
        return f'"data.blend={blends[stages[0].name]}"'
    inner = ",".join(
        f"{{name:'{stage.name}',tokens:{stage.tokens},blend:{blends[stage.name]}}}"
        for stage in stages
    )
    return f'"data.stages=[{inner}]"'


def _blend_override(blend: Sequence[BlendPart]) -> str:
    inner = ",".join(f"{{dir:'{part.dir}',weight:{part.weight:g}}}" for part in blend)
    return f"[{inner}]"


def _check_labels(stage: Stage, parts: Sequence[Part]) -> None:
    by: str = stage.mixture.by
    bare = [part.dir for part in parts if not getattr(part, by)]
    if stage.mixture.weights and bare:
        raise ValueError(
            f"stage {stage.name}: mixture.weights are of each {by}, and {bare[0]} has none; set "
            f"mixture.parts=[{{dir:{bare[0]},{by}:...}}]"
        )

"""Mixtures on the command line: from the manifests of data folders to settings of a run."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from megafm.config import compose, to_dict
from megafm.data import Manifest
from megafm.data.config import BlendPart, DataJob, MixturePart, MixturePlan, MixtureStage
from megafm.data.mixing import mix, parts, stages_of
from megafm.data.tokenization import tokenize
from megafm.report.mixture import write_mixture_report
from megafm.train.config import TrainJob
from tests.data.helpers import data_folder, small_tokenizer

DOMAINS = ("web", "code", "academic", "books", "structured", "dialogue")


def of_domains(**tokens: int) -> tuple[MixturePart, ...]:
    return tuple(
        MixturePart(f"data/{name}", domain=name, tokens=tokens.get(name, 1000)) for name in DOMAINS
    )


def planned(config: MixturePlan) -> dict[str, Any]:
    mix(config, Console(file=io.StringIO()))
    assert config.out is not None
    return dict(json.loads((Path(config.out) / "mixture.json").read_text()))


def test_from_folders_of_tokens_to_the_blend_of_a_run(tmp_path: Path) -> None:
    folder = data_folder(tmp_path)
    tokenize(str(folder), small_tokenizer(), say=lambda text: None)
    tokens = Manifest.load(folder).tokens["train"]
    one, two = f"{{dir:{folder},domain:code}}", f"{{dir:/x,domain:web,tokens:{tokens}}}"
    done = subprocess.run(
        [sys.executable, "-m", "megafm.data", "action=mix", f"mixture.out={tmp_path}/out"]
        + [f"mixture.parts=[{one},{two}]", f"mixture.tokens={4 * tokens}"]
        + ["mixture.stages=[{by:domain,weights:{code:1,web:3},max_epochs:2.5}]"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    found = re.search(r'^megafm train "(data\.blend=.*)"$', done.stdout, re.MULTILINE)
    assert found
    blend = compose("train", TrainJob, [found[1]]).data.blend
    assert blend == (BlendPart(str(folder), 0.375), BlendPart("/x", 0.625))  # 2.5 of 4 at most
    report = (tmp_path / "out" / "report.html").read_text()
    row = f"<td>{folder}</td>" + "".join(
        f'<td class="n">{value}</td>'
        for value in ("25.00%", "37.50%", f"{1.5 * tokens:,.0f}", f"{tokens:,}", "1.50")
    )
    assert row in report


def test_a_curriculum_keeps_its_cap_over_all_stages(tmp_path: Path) -> None:
    job = compose("data", DataJob, ["action=mix", "mixture=curriculum"])
    config = MixturePlan(of_domains(dialogue=50), job.mixture.stages, 6000, str(tmp_path))
    shown = io.StringIO()
    mix(config, Console(file=shown))
    stored = json.loads((tmp_path / "mixture.json").read_text())
    found = re.search(r'^megafm train "(data\.stages=.*)"$', shown.getvalue(), re.MULTILINE)
    assert found
    stages = compose("train", TrainJob, [found[1]]).data.stages
    assert [(stage.name, stage.tokens) for stage in stages] == [("main", 5400), ("anneal", 600)]
    assert [list(map(to_dict, stage.blend)) for stage in stages] == [
        stored[stage.name]["blend"] for stage in stages
    ]
    assert [name for name in stored] == ["main", "anneal"]
    main, anneal = (stored[name]["shares"] for name in ("main", "anneal"))
    assert [round(one["asked"], 6) for one in main] == [0.45, 0.2, 0.1, 0.1, 0.1, 0.05]
    assert sum(one["tokens"] for one in main) == pytest.approx(5400)
    assert sum(one["tokens"] for one in anneal) == pytest.approx(600)
    # Of dialogue, 5% of 5400 are 270, more than four times 50; nothing is left of it then.
    assert (main[-1]["epochs"], anneal[-1]["epochs"]) == (4, 0)
    assert {one["dir"] for one in stored["anneal"]["blend"]} == {
        f"data/{name}" for name in DOMAINS if name != "dialogue"
    }
    report = write_mixture_report(mix(config, Console(file=io.StringIO()))[1], tmp_path).read_text()
    assert "<h2>Stage main</h2>" in report and "<h2>All stages</h2>" in report


@pytest.mark.parametrize("group", ["by_size", "by_language", "pretraining", "curriculum"])
def test_each_group_makes_a_plan(tmp_path: Path, group: str) -> None:
    stages = compose("data", DataJob, [f"mixture={group}"]).mixture.stages
    named = tuple(
        MixturePart(part.dir, language=part.dir, domain=part.domain, tokens=part.tokens)
        for part in of_domains(web=3000)
    )
    for shares in planned(MixturePlan(named, stages, None, str(tmp_path))).values():
        assert sum(part["weight"] for part in shares["blend"]) == pytest.approx(1, abs=1e-5)


def test_the_tokens_of_the_stages_add_up() -> None:
    thirds = tuple(MixtureStage(name=name) for name in "abc")
    found = stages_of(MixturePlan(stages=thirds, tokens=1000), 5)
    assert [stage.tokens for stage in found] == [333, 334, 333]
    assert [stage.tokens for stage in stages_of(MixturePlan(), 5)] == [5]


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (MixturePlan(), r"mixture.out=null: set mixture.out=DIR"),
        (MixturePlan(out="x"), r"mixture.parts=\[\]: set mixture.parts=\[{dir:"),
        (MixturePlan((MixturePart("no"),), out="x"), "no manifest.json there; run: megafm data"),
        (MixturePlan((MixturePart("a", tokens=1),) * 2, out="x"), "a stands there twice"),
        (MixturePlan(of_domains(), (), out="x"), "need one stage or more"),
        (MixturePlan(of_domains(), (MixtureStage(),) * 2, out="x"), "each of its own name"),
        (
            MixturePlan(of_domains(), (MixtureStage("language", {"en": 1}),), out="x"),
            "weights are of each language, and data/web has none; set mixture.parts",
        ),
        (MixturePlan(of_domains(), tokens=10**6, out="x"), "set max_epochs=166.67 or more"),
    ],
)
def test_a_mistake_names_the_setting(plan: MixturePlan, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mix(plan)


def test_a_folder_without_tokens_says_how_to_get_them(tmp_path: Path) -> None:
    folder = str(data_folder(tmp_path))
    with pytest.raises(ValueError, match="no tokens yet; run: megafm data action=tokenize data"):
        parts([MixturePart(folder)])
    with pytest.raises(ValueError, match="share=0.0 of all: must be above 0"):
        MixtureStage(share=0.0)

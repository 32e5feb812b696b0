from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.image
import pytest

from megafm.evaluate.config import EvaluateJob
from megafm.evaluate.job import evaluate
from megafm.generate import append_samples
from megafm.paths import DataDir, SavedRun
from megafm.report import write_report
from tests.tiny_run import make_tiny_run

VOID = {"meta", "br", "img", "link", "hr", "input"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails on tags that do not close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: dict[str, list[str]] = {}
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, []).append(value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = make_tiny_run(tmp_path_factory.mktemp("run"))
    evaluate(EvaluateJob(run=SavedRun(str(run_dir)), data=DataDir(str(run_dir / "data"))))
    sample = {"prompt": "a<b>", "text": "</pre><script>x&y\x1b\x00", "settings": {"step": 7}}
    append_samples(run_dir, [sample])
    times = {"total_seconds": 135.0, "seconds": {"train": 80.0}, "peak_memory_bytes": 3 * 2**30}
    (run_dir / "quickstart.json").write_text(json.dumps(times))
    return run_dir


def test_the_page_needs_nothing_beside_itself(finished: Path) -> None:
    page = Page(write_report(finished).read_text())
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert "href" not in page.attributes and "src" not in page.attributes
    css = write_report(finished).read_text().split("</style>")[0]
    assert "url(" not in css and "@import" not in css and "prefers-color-scheme: dark" in css


def test_the_page_says_how_the_model_compares(finished: Path) -> None:
    text = Page(write_report(finished).read_text()).text
    result = json.loads((finished / "evaluation.json").read_text())
    assert f"{result['model']['bits_per_byte']:.3f} bits per byte" in text
    assert f"{-result['margin_percent']['xz']:.1f}% above xz" in text
    assert "Kneser-Ney" in text


def test_the_page_shows_the_run(finished: Path) -> None:
    text = Page(write_report(finished).read_text()).text
    for shown in ("7 of 20", "p<1> 1", "near duplicate", "2.2 min", "3.0 GiB", "a" * 64, "MIT"):
        assert shown in text


def test_samples_are_escaped(finished: Path) -> None:
    html = write_report(finished).read_text()
    assert "a<b></pre><script>x&y\ufffd\ufffd" in Page(html).text
    assert "<script>" not in html


def test_charts_are_well_formed_and_within_their_bounds(finished: Path) -> None:
    html = write_report(finished).read_text()
    charts = ["<svg" + part.split("</svg>")[0] + "</svg>" for part in html.split("<svg")[1:]]
    assert len(charts) == 4
    for chart in charts:
        svg = ElementTree.fromstring(chart)
        width = float(svg.attrib["viewBox"].split()[2])
        for line in svg.iter("polyline"):
            for point in line.attrib["points"].split():
                assert 0 <= float(point.split(",")[0]) <= width


def test_the_picture_can_be_read(finished: Path) -> None:
    write_report(finished)
    assert matplotlib.image.imread(finished / "report.png").shape[:2] == (450, 1200)
    assert not list(finished.glob("*.partial*"))


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    make_tiny_run(tmp_path)
    text = Page(write_report(tmp_path).read_text()).text
    assert "Not evaluated yet" in text and "No samples yet" in text


def test_a_run_that_has_only_a_config_has_a_report(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("train:\n  steps: 5\n")
    text = Page(write_report(tmp_path).read_text()).text
    for missing in ("No training step yet", "No checkpoint yet", "No manifest found"):
        assert missing in text


def test_a_single_step_can_be_drawn(tmp_path: Path) -> None:
    line = {"step": 1, "tokens": 10, "loss": 2.0, "grad_norm": 1, "lr": 0.0, "tokens_per_s": 1.0}
    line |= {"flops_per_s": 1.0, "step_seconds": 1.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert "nan" not in write_report(tmp_path).read_text()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no config.yaml or metrics.jsonl; train it first"):
        write_report(tmp_path)

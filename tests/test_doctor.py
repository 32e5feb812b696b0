from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from megafm import doctor, ops
from megafm.data import index
from megafm.ops import _library

ROOT = Path(__file__).resolve().parents[1]


def found(name: str) -> doctor.Finding:
    return next(finding for finding in doctor.examine().findings if finding.name == name)


def shown(report: doctor.Report) -> str:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    doctor.show(report, console)
    return console.export_text()


def test_json_is_all_of_stdout() -> None:
    command = [sys.executable, "-m", "megafm.doctor", "format=json"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    report = json.loads(run.stdout)
    names = [finding["name"] for finding in report["findings"]]
    assert names[:4] == ["megafm", "Python", "torch", "CPU"]
    assert {"CUDA", "distributed", "extension", "triton", "transformer-engine", "apex"} < {*names}
    assert report["ops"]["attention"]["pick"]["cpu"]["float32"] in ("cpu", "sdpa")
    assert report["ops"]["attention"]["why_not"]["reference"] is None


def test_table_shows_every_finding_and_op() -> None:
    report = doctor.examine()
    text = shown(report)
    for finding in report.findings:
        assert finding.name in text
    for op in ops.backends():
        assert op in text


def test_a_missing_extension_is_named_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_library, "library_missing", lambda: "the C++ extension is not built")
    assert found("extension").fix == "make setup"
    table = ops.backends()
    table["rms_norm"].why_not["cpu"] = "the C++ extension is not built"
    table["rms_norm"].fix["cpu"] = "make setup"
    text = shown(doctor.Report([], table))
    assert "not on cpu: rms_norm: the C++ extension is not built; run: make setup" in text


def test_a_missing_index_module_is_named_with_its_fix(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(index, "PACKAGE", tmp_path)
    finding = found("index module")
    assert (finding.state, finding.fix) == ("missing", "make setup")


def test_an_extension_older_than_its_sources_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    if _library.library_missing() is not None:
        pytest.skip("the C++ extension is not built: make setup")
    monkeypatch.setattr(_library, "is_stale", lambda: True)
    assert (found("extension").state, found("extension").fix) == ("wrong", "make setup")


def test_the_apex_of_pypi_is_told_from_nvidias(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "apex").mkdir()
    (tmp_path / "apex" / "__init__.py").write_text("raise RuntimeError('was imported')")
    finding = doctor.apex()
    assert finding.state == "wrong" and "unrelated" in finding.detail
    assert finding.fix is not None and "github.com/NVIDIA/apex" in finding.fix
    assert finding.fix.startswith("pip uninstall -y apex")
    (tmp_path / "apex" / "multi_tensor_apply").mkdir()
    assert doctor.apex().state == "ok"


def test_no_compiler_is_named_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert doctor.compiler().fix == "apt-get install g++ && make setup"
    assert doctor.cuda_compiler().state == "missing"
    monkeypatch.setenv("CXX", "nothing++")
    assert doctor.compiler().detail.startswith("CXX=nothing++ is no executable")


def test_a_compiler_asked_for_that_is_not_there_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "nothing++ -v")
    assert (doctor.compiler().state, doctor.compiler().fix) == ("missing", "unset CXX")


def test_a_folder_of_a_packages_name_is_no_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "apex").mkdir()  # such as a clone of the repository
    assert doctor.apex().state == "missing"


def test_a_package_installed_under_another_name_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "tritone").mkdir()
    (tmp_path / "tritone" / "__init__.py").touch()
    assert doctor.optional("tritone", "tritone", "x").detail == "of unknown version"
    (tmp_path / "tritone_rocm-1.2.dist-info").mkdir()
    (tmp_path / "tritone_rocm-1.2.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: tritone-rocm\nVersion: 1.2\n"
    )
    (tmp_path / "tritone_rocm-1.2.dist-info" / "top_level.txt").write_text("tritone\n")
    assert doctor.optional("tritone", "tritone", "x").detail == "tritone-rocm 1.2"

from __future__ import annotations

import dataclasses
import importlib
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
import yaml

import megafm
from megafm import cli, completion, config
from megafm.config import job
from tests.test_config import Brew

REPOSITORY = Path(__file__).parent.parent


def run(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["megafm", *arguments])
    cli.main()


def load(name: str):
    """The Hydra app of a job."""
    return importlib.import_module(completion.module_of(name)).main


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_usage_lists_every_job(arguments, monkeypatch, capsys):
    run(*arguments, monkeypatch=monkeypatch)
    shown = capsys.readouterr().out
    for name, what in cli.JOBS.items():
        assert f"  {name} " in shown and what in shown


def test_version(monkeypatch, capsys):
    run("--version", monkeypatch=monkeypatch)
    assert capsys.readouterr().out == f"megafm {megafm.__version__}\n"


@pytest.mark.parametrize(
    ("name", "hint"), [("trian", "did you mean train?"), ("zz", "jobs: quickstart doctor")]
)
def test_an_unknown_job_names_the_nearest_or_all(name, hint, monkeypatch, capsys):
    with pytest.raises(SystemExit) as exit:
        run(name, monkeypatch=monkeypatch)
    assert exit.value.code == 2
    assert hint in capsys.readouterr().err


def test_usage_needs_neither_torch_nor_hydra():
    script = "import sys; from megafm import cli; cli.usage(); print(*sys.modules)"
    output = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "hydra", "omegaconf"} & set(output)


@pytest.mark.parametrize("name", cli.JOBS)
def test_every_job_composes_from_its_yaml_to_its_dataclass(name, monkeypatch, capsys):
    main = load(name)
    monkeypatch.setattr(sys, "argv", [name, "--cfg", "job"])
    main()
    values = yaml.safe_load(capsys.readouterr().out)
    assert isinstance(config.from_dict(main.schema, values), main.schema)


@pytest.mark.parametrize("name", cli.JOBS)
def test_every_job_says_in_its_help_what_it_is_for(name, monkeypatch, capsys):
    main = load(name)
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == 0
    assert f"megafm {name}: {main.schema().what}" in capsys.readouterr().out


@pytest.mark.parametrize("name", cli.JOBS)
def test_every_job_refuses_an_unknown_key(name, monkeypatch, capsys):
    main = load(name)
    monkeypatch.setattr(sys, "argv", [name, "no_such_key=1"])
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == 1
    assert "unknown config key 'no_such_key'" in capsys.readouterr().err


@pytest.mark.parametrize("name", cli.JOBS)
def test_the_schema_of_every_job_is_frozen_with_all_defaults(name):
    schema = load(name).schema
    assert dataclasses.fields(schema)[0].name == "what"
    with pytest.raises(dataclasses.FrozenInstanceError):
        schema().what = ""


def test_hydras_own_completion_installs_without_a_crash():
    installed = subprocess.run(
        [sys.executable, "-m", "megafm.data", "-sc", "install=bash"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert installed.returncode == 0 and "complete" in installed.stdout


@pytest.mark.parametrize(
    ("line", "candidates"),
    [
        ("megafm tr", ["train"]),
        ("megafm --v", ["--version"]),
        ("megafm completion ", ["bash"]),
        ("megafm train --m", ["--multirun"]),
        ("megafm nothing a", []),
    ],
)
def test_jobs_and_options_complete(line, candidates):
    assert completion.complete(line, cli.JOBS) == candidates


@pytest.fixture
def brew_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job named brew that completion can find, with its own configs."""

    def main(config: Brew) -> None: ...

    folder = tmp_path / "hydra_conf"
    (folder / "optim").mkdir(parents=True)
    shutil.copy(config.config_dir() / "job.yaml", folder)
    (folder / "brew.yaml").write_text(
        "defaults:\n  - job\n  - schema/brew\n  - optim: fast\n  - _self_\n"
    )
    (folder / "optim" / "fast.yaml").write_text("lr: 0.5\n")
    (folder / "optim" / "slow.yaml").write_text("lr: 0.1\n")
    module = types.ModuleType("megafm.brew")
    monkeypatch.setattr(completion, "config_dir", lambda: folder)
    monkeypatch.setattr(completion, "module_of", lambda name: module.__name__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    vars(module)["main"] = job("brew")(main)


@pytest.mark.parametrize(
    ("words", "candidates"),
    [
        ("", {"cups=", "optim.", "optim=", "run.", "strong="}),
        ("opt", {"optim.", "optim="}),
        ("optim=", {"optim=fast", "optim=slow"}),
        ("optim=s", {"optim=slow"}),
        ("optim=slow optim.l", {"optim.lr="}),
        ("optim=slow optim.lr=", {"optim.lr=0.1"}),
        ("run.dir=", {"run.dir=runs/brew"}),
        ("zz", set()),
    ],
)
def test_overrides_complete_from_the_schema_and_the_presets(brew_job, words, candidates):
    assert set(completion.complete(f"megafm brew {words}", ["brew"])) == candidates


@pytest.fixture(scope="module")
def bash() -> str:
    found = shutil.which("bash")
    if found is None:
        pytest.skip("no bash")
    return found


@pytest.mark.parametrize(
    ("line", "answers", "replies"),
    [
        ("megafm tr", "train", "train"),
        ("megafm train optim=f", "optim=fast", "fast"),
        ("megafm train opt", "optim.\noptim=", "optim. optim="),
        ("megafm train tag=a=b", "tag=a=bc", "bc"),
    ],
)
def test_the_bash_script_puts_the_answers_where_bash_wants_them(bash, line, answers, replies):
    script = (
        f"megafm() {{ printf '%s\\n' {' '.join(answers.split())}; }}\n"
        f"{completion.BASH}\n"
        f"COMP_LINE={line!r}; COMP_POINT={len(line)}; _megafm 2>/dev/null\n"
        'echo "${COMPREPLY[*]}"\n'
    )
    shown = subprocess.run(
        [bash, "--norc", "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert shown.split() == replies.split()


def test_completion_for_another_shell_says_which_there_is(monkeypatch, capsys):
    with pytest.raises(SystemExit) as exit:
        run("completion", "tcsh", monkeypatch=monkeypatch)
    assert exit.value.code == 2
    assert "give bash" in capsys.readouterr().err

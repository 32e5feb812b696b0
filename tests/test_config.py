"""The config layer, on a small job of its own so that no job's defaults matter here."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from megafm import config as config_module
from megafm.config import compose, config_hash, from_dict, job, override, to_dict, to_yaml
from megafm.paths import RunDir, SavedRun

REPOSITORY = Path(__file__).parent.parent


@dataclass(frozen=True)
class Optim:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    decay: str | None = None

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"optim.lr={self.lr}: must be positive; set optim.lr=1e-3")


@dataclass(frozen=True)
class Brew:
    what: str = "brew one cup"
    run: RunDir = field(default_factory=lambda: RunDir("runs/brew"))
    optim: Optim = field(default_factory=Optim)
    cups: int = 1
    strong: bool = False


@dataclass(frozen=True)
class Taste:
    what: str = "taste what was brewed"
    run: SavedRun = field(default_factory=SavedRun)
    sip: int = 1


@pytest.fixture
def brew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run the job with some command line; the answer is the list of configs that it saw."""
    folder = tmp_path / "hydra_conf"
    (folder / "optim").mkdir(parents=True)
    shutil.copy(config_module.config_dir() / "job.yaml", folder)
    for name in ("brew", "taste"):
        (folder / f"{name}.yaml").write_text(
            f"defaults:\n  - job\n  - schema/{name}\n  - optim: null\n  - _self_\n"
        )
    (folder / "optim" / "fast.yaml").write_text("lr: 0.5\n")
    (folder / "optim" / "slow.yaml").write_text("lr: 0.1\n")
    monkeypatch.setattr(config_module, "config_dir", lambda: folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    seen: list[Brew | Taste] = []

    def run(*arguments: str, error: Exception | None = None, name: str = "brew"):
        seen.clear()

        def step(config: object) -> None:
            seen.append(config)
            if error is not None:
                raise error

        def brew_job(config: Brew) -> None:
            step(config)

        def taste_job(config: Taste) -> None:
            step(config)

        monkeypatch.setattr(sys, "argv", [name, *arguments])
        job(name)(brew_job if name == "brew" else taste_job)()
        return list(seen)

    return run


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_a_job_gets_its_defaults_as_a_frozen_dataclass(brew):
    assert brew() == [Brew()]


def test_overrides_are_converted_to_the_declared_types(brew):
    (config,) = brew("optim.lr=1", "optim.betas=[0.8,0.9]", "strong=true", "optim.decay=linear")
    assert config.optim == Optim(lr=1.0, betas=(0.8, 0.9), decay="linear")
    assert isinstance(config.optim.lr, float) and isinstance(config.optim.betas, tuple)
    assert config.strong is True


def test_a_preset_sets_its_group_and_an_override_wins_over_it(brew):
    assert brew("optim=fast")[0].optim.lr == 0.5
    assert brew("optim=fast", "optim.lr=0.25")[0].optim.lr == 0.25


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lr=3", "unknown config key 'lr': did you mean optim.lr?"),
        ("optim.cups=3", "unknown config key 'optim.cups': did you mean cups?"),
        ("cps=3", "unknown config key 'cps': did you mean cups?"),
        ("optm.lr=3", "unknown config key 'optm.lr': did you mean optim.lr?"),
        ("+optim.momentum=1", "unknown config key 'optim.momentum': did you mean optim.betas?"),
        ("zzzz=1", "unknown config key 'zzzz': --cfg job prints every key"),
        ("cups=many", "cups='many': Input should be a valid integer"),
        ("optim.lr=high", "optim.lr='high': Input should be a valid number"),
        ("optim.lr=-1", "optim.lr=-1.0: must be positive; set optim.lr=1e-3"),
        ("optim=fsat", "optim=fsat: no such option; did you mean fast?"),
        ("optim=qqqq", "optim=qqqq: no such option; set one of fast, slow"),
        ("cups", "'cups' is not an override: give key=value"),
        ("run.dir=a=1,b", "run.dir=a=1,b: quote what holds , = or brackets: \"run.dir='a=1,b'\""),
    ],
)
def test_a_mistake_is_one_line_with_the_nearest_right_thing(brew, capsys, override, message):
    with pytest.raises(SystemExit) as exit:
        brew(override)
    assert exit.value.code == 1
    assert message in error_line(capsys)


def test_a_number_for_a_preset_says_how_presets_are_set(brew, capsys):
    with pytest.raises(SystemExit):
        brew("optim=2")
    assert "set by its name" in error_line(capsys)


@pytest.mark.parametrize("error", [ValueError("cups=9: too many"), OSError("disk full")])
def test_a_mistake_found_by_the_job_is_one_line_too(brew, capsys, error):
    with pytest.raises(SystemExit) as exit:
        brew(error=error)
    assert exit.value.code == 1
    assert error_line(capsys) == f"megafm: error: {error}"


def test_the_error_line_names_the_rank_under_torchrun(brew, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(SystemExit):
        brew("cps=3")
    assert error_line(capsys).startswith("megafm [rank 3]: error: ")


def test_a_bug_keeps_its_traceback(brew):
    with pytest.raises(ZeroDivisionError):
        brew(error=ZeroDivisionError())


def test_the_traceback_of_a_mistake_can_be_asked_for(brew, monkeypatch):
    monkeypatch.setenv("MEGAFM_TRACEBACK", "1")
    with pytest.raises(ValueError, match="too many"):
        brew(error=ValueError("cups=9: too many"))


def test_an_interrupt_exits_with_130(brew, capsys):
    with pytest.raises(SystemExit) as exit:
        brew(error=KeyboardInterrupt())
    assert exit.value.code == 130
    assert error_line(capsys) == "megafm: error: interrupted"


def test_a_sweep_writes_one_run_folder_for_each_job(brew):
    configs = brew("--multirun", "cups=1,2", "optim=fast,slow")
    assert [config.run.dir for config in configs] == [
        "runs/brew/cups=1,optim=fast",
        "runs/brew/cups=1,optim=slow",
        "runs/brew/cups=2,optim=fast",
        "runs/brew/cups=2,optim=slow",
    ]


def test_a_sweep_under_a_given_run_folder_keeps_its_jobs_apart(brew):
    configs = brew("--multirun", "run.dir=mine", "cups=1,2")
    assert [config.run.dir for config in configs] == ["mine/cups=1", "mine/cups=2"]
    configs = brew("--multirun", "run.dir=a,b")
    assert [config.run.dir for config in configs] == ["a", "b"]


def test_a_sweep_with_paths_and_many_overrides_has_one_folder_a_job(brew):
    for path in ("/a/b", f"/a/{'b' * 300}"):
        configs = brew("--multirun", f"optim.decay={path}", "cups=1,2")
        folders = [Path(config.run.dir) for config in configs]
        assert len(set(folders)) == 2
        assert all(f.parent == Path("runs/brew") and len(f.name) < 255 for f in folders)


def test_the_run_folder_of_a_sweep_can_be_given_quoted(brew):
    (config,) = brew("run.dir='runs/brew/cups=1,optim=fast'")
    assert config.run.dir == "runs/brew/cups=1,optim=fast"


def test_a_sweep_of_a_job_that_reads_a_run_reads_that_run(brew):
    configs = brew("--multirun", "sip=1,2", name="taste")
    assert {config.run.dir for config in configs} == {SavedRun().dir}


def test_hydra_leaves_nothing_behind_but_the_record_of_a_sweep(brew, tmp_path):
    brew("cups=2")
    assert [path.name for path in tmp_path.iterdir()] == ["hydra_conf"]
    brew("--multirun", "cups=1,2")
    assert {path.name for path in tmp_path.iterdir()} == {"hydra_conf", "multirun"}


def test_help_shows_what_the_job_is_for_its_groups_and_its_keys(brew, capsys):
    with pytest.raises(SystemExit) as exit:
        brew("--help")
    assert exit.value.code == 0
    shown = capsys.readouterr().out
    assert "megafm brew: brew one cup" in shown
    assert "optim: fast, slow" in shown
    assert "betas:" in shown


def test_cfg_job_prints_the_config_that_would_run(brew, capsys):
    assert brew("--cfg", "job", "optim=fast", "cups=3") == []
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown == to_dict(Brew(optim=Optim(lr=0.5), cups=3))


def test_compose_gives_what_the_command_line_would(brew):
    assert compose("brew", Brew, ["optim=slow", "cups=2"]) == brew("optim=slow", "cups=2")[0]
    with pytest.raises(ValueError, match="did you mean cups"):
        compose("brew", Brew, ["cup=2"])


def test_an_override_sets_any_text(brew):
    values = ["runs/a", "null", "1.5", "~x", " a b ", "it's", '"a"', "a\nb", "a=[b],{c}"]
    values += ["$HOME", "${x}", "a\\${b}", "a\\\\${b}'\\", "end\\", "a\\'b", "a\\\\'", "a\\b"]
    for value in values:
        assert compose("brew", Brew, [override("run.dir", value)]).run.dir == value


def test_yaml_of_a_config_reads_back_as_the_same_config():
    config = Brew(optim=Optim(lr=3e-4, betas=(0.5, 0.6)), cups=7)
    assert from_dict(Brew, yaml.safe_load(to_yaml(config))) == config


def test_the_hash_follows_values_not_identity():
    assert config_hash(Brew()) == config_hash(Brew())
    assert config_hash(Brew()) != config_hash(Brew(cups=2))


def test_output_into_a_closed_pipe_is_not_an_error():
    script = (
        "import sys\n"
        "from megafm.config import one_line_errors\n"
        "with one_line_errors():\n"
        "    while True: print('x' * 1000)\n"
    )
    program = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None and program.stderr is not None
    program.stdout.readline()
    program.stdout.close()
    assert program.stderr.read() == ""
    assert program.wait(30) == 141


def test_a_misspelt_key_of_an_optional_section_is_named() -> None:
    from megafm.train.config import TrainJob

    with pytest.raises(ValueError, match=r"'model.rope_scaling.factr'.*model.rope_scaling.factor"):
        compose("train", TrainJob, ["model=llama3_8b", "+model.rope_scaling.factr=2"])
    scaled = compose("train", TrainJob, ["model=llama3_8b", "model.rope_scaling.factor=4"])
    assert scaled.model.rope_scaling is not None and scaled.model.rope_scaling.factor == 4.0

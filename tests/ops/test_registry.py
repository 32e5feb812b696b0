from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from megafm import ops
from megafm.config import compose
from megafm.ops import OpsConfig, auto, registry
from megafm.train.config import TrainJob

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Gives swiglu two more backends; `torch` refuses float64. Lists which one ran."""
    ran: list[str] = []

    def backend(name: str) -> registry.Backend:
        def run(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
            ran.append(name)
            return gate * up

        def refuses(gate: torch.Tensor, up: torch.Tensor) -> str | None:
            refused = name == "torch" and gate.dtype == torch.float64
            return "float64 is too wide" if refused else None

        return registry.Backend(run, refuses=refuses)

    for name in ("reference", "torch"):
        monkeypatch.setitem(registry._table["swiglu"], name, backend(name))
    monkeypatch.setitem(auto.AUTO, "swiglu", (auto.Rule("cpu", ("torch",)),))
    registry._probe.cache_clear()
    registry._able.cache_clear()
    yield ran
    registry._probe.cache_clear()
    registry._able.cache_clear()


def run_swiglu(dtype: torch.dtype = torch.float32) -> None:
    ops.swiglu(torch.ones(2, dtype=dtype), torch.ones(2, dtype=dtype))


def test_auto_takes_the_first_backend_that_takes_the_input(calls: list[str]) -> None:
    run_swiglu()
    run_swiglu(torch.float64)
    assert calls == ["torch", "reference"]


def test_a_rule_counts_for_its_device_dtype_and_class_of_shape(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rules = (
        auto.Rule("cpu", ("onednn",), shapes=("large",)),
        auto.Rule("cpu", ("cpu",), dtypes=(torch.float32,)),
        auto.Rule("cuda", ("triton",)),
    )
    monkeypatch.setitem(auto.AUTO, "linear", rules)
    fp32, bf16 = torch.float32, torch.bfloat16
    assert auto.order("linear", "cpu", bf16, "large") == ("onednn",)
    assert auto.order("linear", "cpu", fp32, "small") == ("cpu",)
    assert auto.order("linear", "cpu", bf16, "small") == ()
    assert auto.order("linear", "cuda", fp32, "large") == ("triton",)
    weight = torch.empty(4, 8)
    assert auto.shape_class("linear", torch.empty(1 << 18, 8), weight) == "large"
    assert auto.shape_class("linear", torch.empty(5, 8), weight) == "small"


def test_a_fall_to_the_reference_is_announced_once(
    calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_announced", set())
    with pytest.warns(UserWarning, match="swiglu runs its slow reference: float64 is too wide"):
        run_swiglu(torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_swiglu(torch.float64)
        run_swiglu()


def test_tensors_on_two_devices_are_refused() -> None:
    x = torch.ones(2)
    registry.check_devices("swiglu", gate=x, up=x, nothing=None)
    with pytest.raises(ValueError, match="swiglu: gate is on cpu, up is on meta; move them"):
        registry.check_devices("swiglu", gate=x, up=x.to("meta"))


def test_a_backend_asked_for_runs_or_says_why_not(calls: list[str]) -> None:
    with ops.use(swiglu="torch"):
        run_swiglu()
        with pytest.raises(ValueError, match="ops.swiglu=torch: float64 is too wide; set"):
            run_swiglu(torch.float64)
    assert calls == ["torch"]


Q, K = torch.linspace(-1, 1, 256).view(1, 4, 4, 16), torch.linspace(-1, 1, 128).view(1, 4, 2, 16)
X, SQUARE = torch.linspace(-1, 1, 128).view(2, 64), torch.linspace(-1, 1, 64**2).view(64, 64)
TARGETS = torch.tensor([0, 3])
# op -> a first argument, and the op as a function of it.
DIFFERENTIATED = {
    "rms_norm": (X, lambda x: ops.rms_norm(x, SQUARE[0])),
    "rope": (Q, lambda q: ops.apply_rope(q, K, *ops.rope_cache(4, 16))[0]),
    "swiglu": (X, lambda gate: ops.swiglu(gate, X)),
    "attention": (Q, lambda q: ops.attention(q, K, K)),
    "cross_entropy": (X, lambda x: ops.cross_entropy(x, TARGETS)),
    "linear_cross_entropy": (X, lambda x: ops.linear_cross_entropy(x, SQUARE, TARGETS)),
    "linear": (SQUARE.repeat(64, 1), lambda x: ops.linear(x, SQUARE)),  # of the class "large"
}


@pytest.mark.filterwarnings("ignore:megafm")
@pytest.mark.parametrize("op", DIFFERENTIATED)
def test_torch_func_gives_the_gradient_of_autograd(op: str) -> None:
    x, run = DIFFERENTIATED[op]
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(run(leaf).square().sum(), leaf)
    found = torch.func.grad(lambda x: run(x).square().sum())(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)  # of two implementations


def test_torch_func_and_a_kernel_asked_for_is_an_error(calls: list[str]) -> None:
    said = "ops.swiglu=torch: torch.func transforms torch's own ops only; set ops.swiglu=auto"
    with ops.use(swiglu="torch"), pytest.raises(ValueError, match=said):
        torch.func.grad(lambda x: ops.swiglu(x, x).sum())(torch.ones(2))


def test_the_innermost_use_wins_and_ends_with_its_block(calls: list[str]) -> None:
    with ops.use(swiglu="reference"):
        with ops.use(swiglu="auto"):
            run_swiglu()
        run_swiglu()
        with pytest.raises(KeyError), ops.use(swiglu="torch"):
            raise KeyError
        run_swiglu()
    run_swiglu()
    assert calls == ["torch", "reference", "reference", "torch"]


def test_a_compiled_function_follows_use(calls: list[str]) -> None:
    compiled = torch.compile(ops.swiglu, fullgraph=True, backend="eager")
    x = torch.ones(2)
    compiled(x, x)
    with ops.use(swiglu="reference"):
        compiled(x, x)
    assert calls == ["torch", "reference"]


def test_config_applies_to_the_process_and_auto_leaves_the_environment_in_force(
    calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEGAFM_OPS", "swiglu=reference, rms_norm=torch")
    monkeypatch.setattr(registry, "_requests", {})
    ops.configure(OpsConfig(rms_norm="reference"))
    run_swiglu()
    assert calls == ["reference"]
    assert registry._requests == {"swiglu": "reference", "rms_norm": "reference"}


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ({"atention": "sdpa"}, "ops.atention=sdpa: no such op; did you mean attention?"),
        ({"attention": "spda"}, "ops.attention=spda: no such backend; did you mean sdpa?"),
        ({"rope": "apex"}, "megafm has no apex version of rope; set one of auto, reference"),
    ],
)
def test_mistakes_name_what_works(requests: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError) as error, ops.use(**requests):
        pass
    assert message in str(error.value)


def test_config_group_and_overrides_reach_the_schema() -> None:
    job = compose("train", TrainJob, ["ops=reference", "ops.attention=sdpa"])
    assert (job.ops.attention, job.ops.rms_norm) == ("sdpa", "reference")
    with pytest.raises(ValueError, match="did you mean sdpa"):
        compose("train", TrainJob, ["ops.attention=sdpaa"])


def test_backends_lists_every_op_with_its_pick_and_reasons() -> None:
    table = ops.backends()
    assert set(table) == set(auto.AUTO) == {f.name for f in OpsConfig.__dataclass_fields__.values()}
    attention = table["attention"]
    names = auto.order("attention", "cpu", torch.float32, "")
    able = [name for name in names if not attention.why_not[name]]
    assert attention.pick["cpu"]["float32"] == able[0]
    assert attention.why_not["reference"] is None
    assert "apex" in attention.absent and attention.why_not["apex"]


PROBE = """
import json, sys, warnings
for name in ("triton", "transformer_engine", "apex"):
    sys.modules[name] = None  # as if it were not installed
from megafm.ops import _library
_library.library_path = lambda: None
import torch
from megafm import ops
x, w = torch.randn(3, 4), torch.ones(4)
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    import megafm.model, megafm.train, megafm.doctor
    quiet = len(seen)
    for _ in range(3):
        y = ops.rms_norm(x, w)
    z = torch.compile(ops.rms_norm, fullgraph=True, backend="eager")(x, w)
    ops.attention(*[torch.randn(1, 2, 1, 4)] * 3)
expected = torch.nn.functional.rms_norm(x, (4,), w, 1e-6)
print(json.dumps({
    "quiet": quiet == 0,
    "warnings": [str(w.message) for w in seen if "megafm" in str(w.message)],
    "right": torch.allclose(y, expected) and torch.equal(y, z),
    "why": ops.backends()["rms_norm"].why_not["cpu"],
}))
"""


def test_runs_on_plain_torch_with_one_warning_that_names_the_fix() -> None:
    """No compiler, no Triton, no GPU, no built extension."""
    bare = {**os.environ, "PATH": "/nowhere", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROBE]
    run = subprocess.run(command, cwd=ROOT, env=bare, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["right"] and found["quiet"] and found["why"] == "the C++ extension is not built"
    assert len(found["warnings"]) == 1 and "make setup" in found["warnings"][0]


def test_a_wrong_environment_variable_is_reported_at_first_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "_requests", {})
    monkeypatch.setattr(registry, "_environment_error", None)
    monkeypatch.setenv("MEGAFM_OPS", "attention=tritonn")
    registry.load_environment()
    for use_ops in (run_swiglu, ops.backends, lambda: ops.configure(OpsConfig())):
        with pytest.raises(ValueError, match="ops.attention=tritonn: no such backend; did you"):
            use_ops()

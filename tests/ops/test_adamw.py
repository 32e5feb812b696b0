from __future__ import annotations

import pytest
import torch

from megafm import ops


def test_steps_as_the_published_update() -> None:
    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = ops.AdamW([parameter], lr=0.1, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.5)
    value, first, second = parameter.detach().clone(), torch.zeros(2), torch.zeros(2)
    for step in range(1, 4):
        gradient = torch.tensor([0.5, -1.0], dtype=torch.float64) * step
        parameter.grad = gradient.clone()
        optimizer.step()
        first = 0.9 * first + 0.1 * gradient
        second = 0.99 * second + 0.01 * gradient**2
        unbiased = first / (1 - 0.9**step), second / (1 - 0.99**step)
        value = value * (1 - 0.1 * 0.5) - 0.1 * unbiased[0] / (unbiased[1].sqrt() + 1e-8)
    torch.testing.assert_close(parameter.detach(), value)


@pytest.mark.parametrize("form", ["tensors", "names", "groups", "named groups"])
def test_is_fused_on_the_cpu_whatever_form_the_parameters_take(form: str) -> None:
    layer = torch.nn.Linear(3, 2)
    named = list(layer.named_parameters())
    params = {
        "tensors": layer.parameters(),
        "names": iter(named),
        "groups": [{"params": list(layer.parameters()), "lr": 0.5}],
        "named groups": [{"params": named}],
    }[form]
    assert ops.AdamW(params).defaults["fused"] is True


def test_is_not_fused_where_there_is_no_fused_kernel() -> None:
    assert ops.AdamW([torch.zeros(2, device="meta", requires_grad=True)]).defaults["fused"] is False


def test_a_group_given_as_an_iterator_keeps_its_parameters() -> None:
    groups = ops.AdamW([{"params": torch.nn.Linear(3, 2).parameters()}]).param_groups
    assert len(groups[0]["params"]) == 2


@pytest.mark.parametrize("option", [{"fused": False}, {"foreach": True}])
def test_another_implementation_can_be_asked_for(option: dict[str, bool]) -> None:
    assert not ops.AdamW(torch.nn.Linear(3, 2).parameters(), **option).defaults["fused"]


def test_a_bare_tensor_is_refused_by_torch() -> None:
    with pytest.raises(TypeError, match="should be an iterable"):
        ops.AdamW(torch.nn.Parameter(torch.zeros(2)))

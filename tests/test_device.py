from __future__ import annotations

import pytest
import torch

from megafm import device


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA B200", 2250),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
    ],
)
def test_known_devices_have_their_dense_bf16_peak(
    name: str, tflops: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "device_name", lambda _: name)
    assert device.peak_flops(torch.device("cuda"), torch.bfloat16) == tflops * 1e12


@pytest.mark.parametrize("name", ["AMD EPYC (2 cores)", "NVIDIA H1000", "NVIDIA L400"])
def test_unknown_devices_have_no_peak(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "device_name", lambda _: name)
    assert device.peak_flops(torch.device("cuda"), torch.bfloat16) is None


def test_a_known_device_has_no_peak_at_an_unlisted_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "device_name", lambda _: "NVIDIA H200")
    assert device.peak_flops(torch.device("cuda"), torch.float64) is None


def test_devices_and_precisions_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match="device=tpu: set device=auto"):
        device.resolve_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device=cuda: .*set device=cpu"):
            device.resolve_device("cuda")
    with pytest.raises(ValueError, match="train.precision=fp8"):
        device.resolve_precision("fp8", torch.device("cpu"))


def test_more_ranks_than_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="local rank 2 .*has 2 CUDA .*--nproc-per-node 2"):
        device.resolve_device("auto")


def test_auto_precision_is_bf16_only_where_it_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for fast, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(device, "has_bf16_matmul", lambda _, fast=fast: fast)
        assert device.resolve_precision("auto", cpu) == expected
    assert device.resolve_precision("bf16", cpu) == torch.bfloat16
    assert device.resolve_precision("fp32", cpu) == torch.float32


def test_ranks_of_a_host_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    try:
        monkeypatch.setattr(device, "num_cpus", lambda: 8)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
        device.set_up_cpu()
        assert torch.get_num_threads() == 2
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
        device.set_up_cpu()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)

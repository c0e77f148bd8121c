"""Devices and number formats are what was asked, or it is said."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from prunefuse_al.errors import FallbackWarning, InputError
from prunefuse_al.network.precision import has_bf16, home_device, resolve_device, resolve_precision

CPU = torch.device("cpu")


def test_fp32_and_auto_on_a_cpu_are_exact() -> None:
    assert resolve_precision("fp32", CPU) is None
    assert resolve_precision("auto", CPU) is None


def test_fp16_is_for_gpus() -> None:
    with pytest.warns(FallbackWarning, match=r"precision='fp16'.*cpu device.*fp32 is used"):
        assert resolve_precision("fp16", CPU) is None
    assert resolve_precision("fp16", torch.device("mps")) == torch.float16
    assert resolve_precision("auto", torch.device("mps")) == torch.float16


@pytest.mark.parametrize(("avx", "amx"), [(True, False), (False, True), (False, False)])
def test_bf16_needs_hardware(monkeypatch: pytest.MonkeyPatch, avx: bool, amx: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    assert has_bf16(CPU) == (avx or amx)
    if avx or amx:
        assert resolve_precision("bf16", CPU) == torch.bfloat16
        return
    with pytest.warns(FallbackWarning, match="not supported in hardware"):
        assert resolve_precision("bf16", CPU) is None


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match="fp32, bf16, fp16, auto"):
        resolve_precision("int8", CPU)
    with pytest.raises(InputError, match="device='gpu'"):
        resolve_device("gpu")
    assert resolve_device("cpu") == CPU


def test_a_network_is_at_home_in_one_place() -> None:
    assert home_device(nn.ReLU()) == CPU
    assert home_device(nn.BatchNorm1d(2)) == CPU
    assert home_device(nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2, device="meta"))) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_auto_takes_the_gpu() -> None:
    assert resolve_device("auto").type == "cuda"
    assert resolve_precision("auto", resolve_device("auto")) in (torch.bfloat16, torch.float16)

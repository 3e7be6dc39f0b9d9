"""The kernels for what stands between the products, against torch in float32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lavatube.model.elementwise import ACTIVATIONS, RMSNorm, Rotation, swiglu
from lavatube.model.native import Native

SIZES = (5, 16, 40, 1024)


def rows_of(*shape: int, seed: int = 0) -> Tensor:
    """What bfloat16 holds exactly."""
    return (3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).bfloat16()


def assert_near(ours: Tensor, exact: Tensor) -> None:
    """Apart by no more than the rounding to bfloat16, and some of its last bits."""
    torch.testing.assert_close(ours.float(), exact, rtol=0.008, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_norm(size: int, kernels: Native) -> None:
    hidden, weight = rows_of(2, 19, size), rows_of(size, seed=1)
    exact = functional.rms_norm(hidden.float(), [size], weight.float(), 1e-5)
    assert_near(kernels.normalize(hidden, weight, 1e-5), exact)


@pytest.mark.parametrize("size", SIZES)
def test_gates(size: int, kernels: Native) -> None:
    hidden = rows_of(19, 2 * size)
    exact = functional.silu(hidden[:, :size].float()) * hidden[:, size:].float()
    assert_near(kernels.gate(hidden, 1.0, 0.0, is_gated=True), exact)


def test_a_gate_is_shut_and_open_at_the_ends(kernels: Native) -> None:
    hidden = torch.tensor([-1e18, -300.0, -0.0, 300.0, 1e18, torch.nan]).bfloat16()
    out = kernels.gate(hidden, 1.0, 0.0, is_gated=False)
    assert out[:3].abs().max() < 1e-6
    assert torch.equal(out[3:5], hidden[3:5])
    assert out[5].isnan()


@pytest.mark.parametrize("head_dim", [2, 64, 72])
def test_rotation(head_dim: int, kernels: Native) -> None:
    merged = rows_of(19, 5 * head_dim)  # three heads of five are turned, in place
    exact = merged.clone().float()
    positions, frequencies = torch.arange(19), 10000.0 ** -torch.linspace(0, 1, head_dim // 2)
    angles = positions[:, None] * frequencies
    turned = exact[:, : 3 * head_dim].unflatten(1, (3, head_dim))
    exact[:, : 3 * head_dim] = Rotation(positions, frequencies, torch.float32)(turned).flatten(1)
    kernels.rotate(merged[:, : 3 * head_dim].unflatten(1, (3, head_dim)), angles.cos(), angles.sin())
    assert torch.equal(merged[:, 3 * head_dim :].float(), exact[:, 3 * head_dim :])
    torch.testing.assert_close(merged.float(), exact, rtol=0.008, atol=0.02)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_are_the_same_function_in_both_precisions(name: str) -> None:
    hidden = rows_of(19, 40)
    torch.testing.assert_close(
        ACTIVATIONS[name](hidden).float(), ACTIVATIONS[name](hidden.float()), rtol=0.01, atol=1e-3
    )


def test_norm_and_gate_are_the_same_function_in_both_precisions() -> None:
    norm, hidden = RMSNorm(40, 1e-5), rows_of(19, 40)
    torch.nn.init.normal_(norm.weight)
    exact = norm(hidden.float())
    torch.testing.assert_close(norm.bfloat16()(hidden).float(), exact, rtol=0.02, atol=0.02)
    torch.testing.assert_close(swiglu(hidden).float(), swiglu(hidden.float()), rtol=0.02, atol=0.02)

"""Each kernel for GPUs beside its twin in torch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lavatube.model import operation
from lavatube.model.examples import Examples
from lavatube.model.fused import Fused
from lavatube.spec import LanguageSpec, Quantize
from tests.model.test_attention import Sequences, language, ragged

# numpy, in which kernels are interpreted, warns where a GPU does not: of what an empty part of a context weighs.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")

SHAPES = {
    "a head for each key": replace(language(4, 4), head_dim=16),
    "odd groups, wide heads, a window": replace(language(6, 2), head_dim=80, sliding_window=40),
    "one key for all": replace(language(20, 1), head_dim=64, hidden_size=1280, intermediate_size=1100),
}


@pytest.mark.parametrize("quantize", ["int4", "fp8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_kernel_proves_itself(
    shape: LanguageSpec,
    dtype: torch.dtype,
    quantize: Quantize,
    device: torch.device,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fused = Fused()
    fused.prove(Examples(shape, 16, dtype, device, quantize))
    assert [record.message for record in caplog.records if record.name == operation.__name__] == []
    assert [one.name for one in fused.operations.values() if not one.is_proven] == []
    assert fused.is_settled


@given(shape=ragged(), heads=st.sampled_from([(4, 4), (6, 1)]), window=st.one_of(st.none(), st.integers(1, 25)))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_row_sees_its_own_context_and_nothing_else(
    shape: tuple[list[int], list[int]], heads: tuple[int, int], window: int | None, device: torch.device
) -> None:
    from lavatube.model.triton import attention

    fused = Fused()
    fused.attend.prove(attention.attend, [])
    sequences = Sequences(*shape, *heads, device=device)
    sequences.forget_before(window or max(shape[0]))
    for ours, expected in zip(sequences.attend(window=window, fused=fused), sequences.expected(window), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_a_sequence_of_nan_leaves_its_neighbours_alone(device: torch.device) -> None:
    from lavatube.model.triton import attention

    fused = Fused()
    fused.attend.prove(attention.attend, [])
    sequences = Sequences([17, 60, 11], [16, 59, 10], 4, 2, device=device)
    expected = sequences.expected()
    sequences.queries[1][:] = torch.nan
    sequences.cache.values[:, :, sequences.slots(1)] = torch.nan
    ours = sequences.attend(fused=fused)
    assert ours[1].isnan().all()
    torch.testing.assert_close(ours[0], expected[0])
    torch.testing.assert_close(ours[2], expected[2])

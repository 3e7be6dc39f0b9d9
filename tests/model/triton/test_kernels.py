"""Each kernel for GPUs beside its twin in torch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lavatube.model.examples import Examples
from lavatube.model.fused import Fused
from lavatube.spec import LanguageSpec
from tests.model.test_attention import language

# numpy, in which kernels are interpreted, warns where a GPU does not: of what an empty part of a context weighs.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")

SHAPES = {
    "a head for each key": replace(language(4, 4), head_dim=16),
    "odd groups, wide heads, a window": replace(language(6, 2), head_dim=80, sliding_window=40),
    "one key for all": replace(language(20, 1), head_dim=64, hidden_size=1280, intermediate_size=1100),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_kernel_proves_itself(
    shape: LanguageSpec, dtype: torch.dtype, device: torch.device, caplog: pytest.LogCaptureFixture
) -> None:
    fused = Fused()
    fused.prove(Examples(shape, 16, dtype, device))
    assert caplog.messages == []
    assert [one.name for one in fused.operations if not one.is_proven] == []
    assert fused.is_settled

"""Checkpoints of every kind, each built once, on every device that is here."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch

from tests.checkpoints import write_checkpoint
from tests.parity.reference import Pair, Pairs


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    """Builds each kind of checkpoint once."""

    @cache
    def folder(**overrides: object) -> Path:
        return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), **overrides)

    @cache
    def pair(device: torch.device, computed: torch.dtype = torch.float32, **overrides: object) -> Pair:
        return Pair(folder(**overrides), device, computed)

    return pair


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda",
            marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")],
        ),
    ]
)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)

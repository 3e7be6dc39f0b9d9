"""The kernels themselves in a process of their own, interpreted where there is no GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lavatube.model.fused import TRITON, Fused
from lavatube.model.soundness import sound_kernels
from lavatube.model.trial import Question
from tests.model.test_attention import language


def test_every_kernel_is_sound_and_the_note_says_so(
    tmp_path: Path, device: torch.device, caplog: pytest.LogCaptureFixture
) -> None:
    shape = replace(language(4, 2), head_dim=16)
    keys = [key for key in Fused().operations if key != "multiply_rounded"]  # the interpreter rounds otherwise
    question = Question(shape, 16, "float32", device.type, "int8", module=TRITON, keys=keys)
    assert sound_kernels(question, tmp_path) == keys
    assert caplog.messages == []
    assert len([*tmp_path.iterdir()]) == 1

"""Where Triton's kernels run: compiled on a GPU, or interpreted on the CPU, which `make test-kernels` sees to."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import pytest
import torch


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """One on which kernels run in this process."""
    is_interpreting = os.environ.get("TRITON_INTERPRET") == "1"
    if find_spec("triton") is None:
        pytest.skip("Triton is not installed: make test-kernels")
    if request.param == "cuda" and (is_interpreting or not torch.cuda.is_available()):
        pytest.skip("no CUDA device, or TRITON_INTERPRET is set")
    if request.param == "cpu" and not is_interpreting:
        pytest.skip("TRITON_INTERPRET is not set: make test-kernels")
    if request.param == "cpu":
        _widen_products(monkeypatch)
        _round_to_e4m3(monkeypatch)
    return torch.device(request.param)


def _widen_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter has bfloat16 as integers, and would multiply those."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder

    multiply = InterpreterBuilder.create_dot

    def create_dot(self: Any, a: Any, b: Any, *others: Any) -> Any:
        a, b = (self.cast_impl(each, tl.float32) if each.dtype.scalar == tl.bfloat16 else each for each in (a, b))
        return multiply(self, a, b, *others)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)


def _round_to_e4m3(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter loses what rounding up carries into the exponent, and NaN; torch does it as GPUs do."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    convert = InterpreterBuilder.create_fp_to_fp

    def create_fp_to_fp(self: Any, source: Any, goal: Any, rounding: Any) -> Any:
        if source.dtype.scalar != tl.float32 or goal.scalar != tl.float8e4nv:
            return convert(self, source, goal, rounding)
        rounded = torch.from_numpy(source.data).clamp(-448, 448).to(torch.float8_e4m3fn)
        return TensorHandle(rounded.view(torch.uint8).numpy(), tl.float8e4nv)

    monkeypatch.setattr(InterpreterBuilder, "create_fp_to_fp", create_fp_to_fp)

"""What becomes of a kernel that does something else than torch, and of one that fails."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from lavatube.model.examples import Examples
from lavatube.model.fused import Fused
from lavatube.model.operation import Operation
from tests.model.test_attention import language


def test_a_kernel_that_differs_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    double = Operation("double", lambda values: 2 * values)
    double.prove(lambda values: values + 1, [(torch.ones(3),), (torch.full((3,), 2.0),)])
    assert torch.equal(double(torch.full((3,), 2.0)), torch.full((3,), 4.0))
    assert caplog.messages[0].startswith("double: the kernel is not used, torch does it, slower: AssertionError")


def test_a_kernel_that_leaves_something_else_in_its_arguments_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    def scratch(values: Tensor) -> Tensor:
        doubled = 2 * values
        values.zero_()
        return doubled

    double = Operation("double", lambda values: 2 * values)
    double.prove(scratch, [(torch.ones(3),)])
    assert not double.is_proven
    assert len(caplog.messages) == 1


def test_a_kernel_that_cannot_be_compiled_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    def fail(values: Tensor) -> Tensor:
        raise RuntimeError("PassManager::run failed\n at 12:1")

    double = Operation("double", lambda values: 2 * values)
    double.prove(fail, [(torch.ones(3),)])
    assert not double.is_proven
    assert caplog.messages == [
        "double: the kernel is not used, torch does it, slower: RuntimeError: PassManager::run failed at 12:1"
    ]


def test_a_kernel_is_used_where_it_does_as_torch(caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    def kernel(values: Tensor) -> Tensor:
        calls.append(values)
        return values + values

    double = Operation("double", lambda values: 2 * values)
    assert torch.equal(double(torch.ones(3)), torch.full((3,), 2.0))
    assert calls == []
    double.prove(kernel, [(torch.ones(3),)])
    assert torch.equal(double(torch.ones(3)), torch.full((3,), 2.0))
    assert len(calls) == 2
    assert caplog.messages == []


@pytest.mark.skipif(find_spec("triton") is not None, reason="Triton is installed")
def test_without_triton_torch_does_all_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    fused = Fused()
    fused.prove(Examples(language(4, 2), 16, torch.float32, torch.device("cpu")))
    assert fused.is_settled
    assert not any(operation.is_proven for operation in fused.operations.values())
    assert caplog.messages == ["no kernels for the GPU, torch does all of it, slower: No module named 'triton'"]

"""Every kernel compiled to machine code for GPUs that need not be here, as it will be when it proves itself."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from lavatube.model.examples import Examples
from lavatube.spec import LanguageSpec, Quantize
from tests.model.test_attention import language

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed: make test-kernels"),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="what is interpreted is not compiled"),
    pytest.mark.filterwarnings("ignore::UserWarning:triton"),
]

# What a block of threads may have: CUDA C++ Programming Guide, table of technical specifications.
SHARED_BYTES = {80: 163 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10}
LLAVA_7B = replace(language(32, 32), head_dim=128, hidden_size=4096, intermediate_size=11008)
ONEVISION = replace(language(14, 2), head_dim=64, hidden_size=896, intermediate_size=4864)


class Target:
    """A GPU to compile for: as much of Triton's driver as that takes."""

    def __init__(self, capability: int) -> None:
        self._capability = capability

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self._capability, 32)

    def get_current_device(self) -> int:
        return self._capability  # by which Triton remembers what it has compiled

    def get_current_stream(self, device: int) -> int:
        return 0


@pytest.fixture
def compiled(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Launches compile for a capability, and go no further; what came out of it is put into the list."""
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    results: list[Any] = []
    launch = JITFunction.run

    def run(self: Any, *args: Any, **options: Any) -> Any:
        results.append(launch(self, *args, **{**options, "warmup": True}))
        return results[-1]

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(JITFunction, "run", run)
    driver.set_active(Target(request.param))
    yield results
    if torch.cuda.is_available():
        driver.reset_active()


@pytest.mark.parametrize("compiled", SHARED_BYTES, indirect=True)
@pytest.mark.parametrize(
    ("shape", "dtype", "quantize"),
    [
        (LLAVA_7B, torch.bfloat16, "int4"),
        (LLAVA_7B, torch.bfloat16, "fp8"),
        (ONEVISION, torch.float16, "int8"),
        (ONEVISION, torch.float16, "fp8"),
        (LLAVA_7B, torch.float32, "int4"),
    ],
    ids=["7B bfloat16 int4", "7B bfloat16 fp8", "OneVision float16 int8", "OneVision float16 fp8", "7B float32 int4"],
)
def test_every_kernel_compiles_within_what_the_gpu_has(
    compiled: list[Any], shape: LanguageSpec, dtype: torch.dtype, quantize: Quantize, request: pytest.FixtureRequest
) -> None:
    from lavatube.model.triton import attention, e4m3, product, rows

    capability = request.node.callspec.params["compiled"]
    examples = Examples(shape, 16, dtype, torch.device("cpu"), quantize)
    for launch, inputs in (
        (attention.attend, examples.attend()),
        (rows.normalize, examples.normalize()),
        (rows.rotate_and_store, examples.rotate_and_store()),
        (rows.swiglu, examples.swiglu()),
        (product.multiply, examples.multiply()),
        (e4m3.multiply, examples.multiply_rounded() if capability >= 89 else ()),
    ):
        for each in inputs:
            launch(*each)
    limit = SHARED_BYTES[capability]
    assert len({kernel.metadata.name for kernel in compiled}) == (8 if quantize == "fp8" and capability >= 89 else 6)
    assert all(kernel.asm["cubin"] for kernel in compiled)
    rounded = [kernel.asm["ptx"] for kernel in compiled if kernel.metadata.name == "_multiply_rounded"]
    assert all(re.search(r"mma\S*(e4m3|f8f6f4)", instructions) for instructions in rounded), "in tensor cores"
    assert [kernel.metadata.name for kernel in compiled if kernel.metadata.shared > limit] == []

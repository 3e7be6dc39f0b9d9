"""An order to load becomes an engine, or an error that the operator can act on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lavatube.engine.load import choose_device, choose_dtype, choose_threads, explain_dtype, load_core
from lavatube.engine.wire import Load
from lavatube.errors import InsufficientMemory, InvalidSetting, UnsupportedCheckpoint
from lavatube.model.native import native
from lavatube.spec import ModelSpec
from tests.engine.requests import answer, run, submit

CPU = torch.device("cpu")


def order(checkpoint: Path, **overrides: object) -> Load:
    fields = {"folder": str(checkpoint), "device": "cpu", "dtype": "float32", "max_sequences": 2, "max_step_tokens": 64}
    return Load(**(fields | {"kv_cache_bytes": 0} | overrides))  # type: ignore[arg-type]


@pytest.mark.parametrize("quantize", ["none", "int8", "int4"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_checkpoint_becomes_an_engine(checkpoint: Path, spec: ModelSpec, dtype: str, quantize: str) -> None:
    progress: list[tuple[int, int]] = []
    core = load_core(
        order(checkpoint, dtype=dtype, quantize=quantize), lambda done, total: progress.append((done, total))
    )
    assert (core.device, core.dtype) == ("cpu", dtype)
    assert core.cache_tokens == 2 * spec.language.max_positions
    assert progress[-1][0] == progress[-1][1] > 0
    assert progress == sorted(progress)
    assert len(answer(run(core, submit(spec, "a", num_images=1))["a"])) == 12


def test_the_cache_is_as_large_as_was_ordered(checkpoint: Path, spec: ModelSpec) -> None:
    core = load_core(order(checkpoint, kv_cache_bytes=100 * spec.kv_bytes_per_token("float32")))
    assert core.cache_tokens == core.max_context_tokens == 96


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        ({"device": "tpu"}, InvalidSetting),
        ({"device": "cpu:1"}, InvalidSetting),
        ({"device": "cuda:99"}, InvalidSetting),
        ({"dtype": "int3"}, InvalidSetting),
        ({"quantize": "int3"}, InvalidSetting),
        ({"quantize": "fp8"}, InvalidSetting),
        ({"kv_cache_bytes": 1}, InsufficientMemory),
        ({"folder": "/nowhere"}, UnsupportedCheckpoint),
    ],
)
def test_what_cannot_be_loaded_says_why(checkpoint: Path, overrides: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        load_core(order(checkpoint, **overrides))


def test_devices_and_precisions_that_are_said() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_dtype("float16", "float32", CPU) == "float16"


def test_threads_as_said_or_as_suits_the_model(spec: ModelSpec) -> None:
    large = replace(spec, language=replace(spec.language, hidden_size=4096, num_layers=32, intermediate_size=11008))
    assert choose_threads(3, spec) == choose_threads(3, large) == 3
    assert choose_threads(0, spec) == 1
    assert choose_threads(0, large) == torch.get_num_threads()


def test_a_precision_has_its_reason() -> None:
    assert explain_dtype("float16", "float32", "float16") == "the dtype setting"
    assert explain_dtype("auto", "float32", "float32") == "as stored"
    assert "no quick products in bfloat16" in explain_dtype("auto", "float16", "float32")


def test_auto_precision() -> None:
    cuda = torch.device("cuda", 0)
    assert choose_dtype("auto", "float32", CPU) == "float32"
    kernels, can = native(), torch.cpu.get_capabilities()
    is_quick = (kernels is not None and kernels.level > 0) or can.get("avx512_bf16", False)
    assert choose_dtype("auto", "float16", CPU) == ("bfloat16" if is_quick else "float32")
    assert choose_dtype("auto", "float16", cuda) == "float16"

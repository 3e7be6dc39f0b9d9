"""How much memory a model needs and how much there is: arithmetic over a ModelSpec, and the limits of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lavatube.container import CGROUPS, OWN, container_bytes
from lavatube.spec import DTYPE_BYTES, QUANTIZED_GROUPS, ModelSpec, Quantize

MEMINFO: Final = Path("/proc/meminfo")


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Weights, keys and values of one model in one precision, against the memory that is free.

    cache_bytes: what the engine would take for keys and values. max_sequences: most requests decoded together.
    """

    dtype: str
    quantize: Quantize
    weights_bytes: int
    kv_bytes_per_token: int
    kv_bytes_per_context: int
    free_bytes: int
    cache_bytes: int
    max_sequences: int

    @property
    def stored_as(self) -> str:
        """What most of the weights are."""
        return self.dtype if self.quantize == "none" else self.quantize

    @property
    def has_room_for_weights(self) -> bool:
        return self.weights_bytes <= self.free_bytes

    @property
    def cache_tokens(self) -> int:
        return self.cache_bytes // self.kv_bytes_per_token

    @property
    def num_contexts(self) -> int:
        """Requests of full length that are decoded together."""
        fitting = self.cache_bytes // self.kv_bytes_per_context if self.has_room_for_weights else 0
        return min(fitting, self.max_sequences)


def count_weights(spec: ModelSpec, dtype: str, quantize: Quantize = "none") -> int:
    """Bytes of the weights in one precision."""
    if quantize == "none":
        return spec.num_parameters * DTYPE_BYTES[dtype]
    maps = list(_linear_maps(spec))
    rest = spec.num_parameters - sum(number * outputs * inputs for _, number, outputs, inputs in maps)
    # The decoder's layers alone are of four bits.
    kinds = [quantize if is_decoder or quantize != "int4" else "int8" for is_decoder, *_ in maps]
    quantized = [
        number * _quantized_bytes(kind, outputs, inputs)
        for kind, (_, number, outputs, inputs) in zip(kinds, maps, strict=True)
    ]
    return rest * DTYPE_BYTES[dtype] + sum(quantized)


def plan_memory(
    spec: ModelSpec, dtype: str, quantize: Quantize, *, free_bytes: int, cache_bytes: int, max_sequences: int
) -> MemoryPlan:
    """The plan for one precision."""
    per_token = spec.kv_bytes_per_token(dtype)
    return MemoryPlan(
        dtype=dtype,
        quantize=quantize,
        weights_bytes=count_weights(spec, dtype, quantize),
        kv_bytes_per_token=per_token,
        kv_bytes_per_context=per_token * spec.language.max_positions,
        free_bytes=free_bytes,
        cache_bytes=cache_bytes,
        max_sequences=max_sequences,
    )


def available_bytes(cgroups: Path = CGROUPS, own: Path = OWN, meminfo: Path = MEMINFO) -> int:
    """Main memory that this process may still take: what the machine has free, within the container's limit."""
    available, left = _meminfo(meminfo), container_bytes(cgroups, own)
    return available if left is None else min(available, left)


def _meminfo(path: Path) -> int:
    for line in path.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{path} has no MemAvailable")


def _linear_maps(spec: ModelSpec) -> Iterator[tuple[bool, int, int, int]]:
    """Maps that can be quantised: whether they are of the decoder's layers, how many, outputs and inputs of each."""
    vision, language = spec.vision, spec.language
    width, hidden = vision.hidden_size, language.hidden_size
    for outputs, inputs in (
        (3 * width, width),
        (width, width),
        (vision.intermediate_size, width),
        (width, vision.intermediate_size),
    ):
        yield False, vision.num_layers_run, outputs, inputs
    yield False, 1, hidden, vision.feature_size
    yield False, spec.projector.num_layers - 1, hidden, hidden
    query, key = language.num_heads * language.head_dim, language.num_kv_heads * language.head_dim
    for outputs, inputs in (
        (query + 2 * key, hidden),
        (hidden, query),
        (2 * language.intermediate_size, hidden),
        (hidden, language.intermediate_size),
    ):
        yield True, language.num_layers, outputs, inputs
    yield False, 1, language.vocab_size, hidden


def _quantized_bytes(kind: str, outputs: int, inputs: int) -> int:
    """Of one map, as `model.panels` lays it out: outputs padded to sixteen, inputs to words of four bytes."""
    word_inputs = {"int8": 4, "int4": 8, "fp8": 4}[kind]
    words = -(-inputs // word_inputs)
    groups = -(-words * word_inputs // QUANTIZED_GROUPS[kind]) if kind in QUANTIZED_GROUPS else 1
    return -(-outputs // 16) * 16 * (4 * words + 2 * groups)

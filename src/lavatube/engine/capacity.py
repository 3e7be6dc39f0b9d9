"""How many blocks the KV cache gets."""

from __future__ import annotations

from typing import Final

import torch

from lavatube.errors import InsufficientMemory
from lavatube.memory import available_bytes
from lavatube.spec import ModelSpec

BLOCK_SIZE: Final = 16
"""Tokens a block: small enough that little is left empty, large enough that block tables stay short."""

_GIB: Final = 1024**3
_CPU_LIMIT_BYTES: Final = 4 * _GIB
_CPU_SHARE: Final = 0.25
_SLOW_CPU_FLOPS: Final = 4e9
_CUDA_RESERVE_BYTES: Final = _GIB  # activations of a step, workspaces of the libraries
_CUDA_RESERVE_SHARE: Final = 0.05


def num_cache_blocks(
    spec: ModelSpec,
    dtype: str,
    device: torch.device,
    *,
    max_sequences: int,
    kv_cache_bytes: int,
    taken_bytes: int = 0,
) -> int:
    """Blocks of the cache, once the model is loaded, all but `taken_bytes` of it.

    Raises: InsufficientMemory if not even one fits.
    """
    size_bytes = plan_cache(
        spec, dtype, device, max_sequences=max_sequences, kv_cache_bytes=kv_cache_bytes, taken_bytes=taken_bytes
    )
    if not size_bytes:
        raise InsufficientMemory(
            f"The KV cache needs at least {_block_bytes(spec, dtype)} bytes, and there are fewer for it.",
            remedy="Free memory on the device, or give the cache more (kv_cache_mib).",
        )
    return size_bytes // _block_bytes(spec, dtype)


def plan_cache(
    spec: ModelSpec,
    dtype: str,
    device: torch.device,
    *,
    max_sequences: int,
    kv_cache_bytes: int,
    taken_bytes: int = 0,
) -> int:
    """Bytes of the cache, in whole blocks: what the memory holds, and no more than all sequences can ever use.

    `kv_cache_bytes` 0 derives it from what the device has left, when `taken_bytes` more are taken.
    """
    block_bytes = _block_bytes(spec, dtype)
    useful = max_sequences * -(-spec.language.max_positions // BLOCK_SIZE)
    return min((kv_cache_bytes or spare_bytes(device, taken_bytes)) // block_bytes, useful) * block_bytes


def layer_limit_s(spec: ModelSpec, device: str, max_step_tokens: int) -> float:
    """How long one layer of a full step may take before it is called a hang: on a CPU, at a very modest rate."""
    if device != "cpu":
        return 0.0
    flops = 2 * max_step_tokens * spec.num_parameters / spec.language.num_layers
    return flops / _SLOW_CPU_FLOPS


def free_bytes(device: torch.device) -> int:
    """What a device has free."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_bytes()


def spare_bytes(device: torch.device, taken_bytes: int = 0) -> int:
    """What a device has to spare for keys and values, beside the model, the work of a step, and `taken_bytes` more."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return max(0, free - taken_bytes - max(_CUDA_RESERVE_BYTES, int(total * _CUDA_RESERVE_SHARE)))
    return min(_CPU_LIMIT_BYTES, int(max(0, available_bytes() - taken_bytes) * _CPU_SHARE))


def _block_bytes(spec: ModelSpec, dtype: str) -> int:
    return BLOCK_SIZE * spec.kv_bytes_per_token(dtype)

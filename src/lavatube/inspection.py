"""A checkpoint's folder in; every decision about it, and what it would take of this machine's device, out.

Loads no weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from lavatube.assembly import read_served_spec
from lavatube.engine.capacity import free_bytes, plan_cache
from lavatube.engine.load import can_quantize, choose_device, choose_dtype, choose_quantize, explain_dtype
from lavatube.memory import MemoryPlan, count_weights, plan_memory
from lavatube.settings import MIB, Settings
from lavatube.spec import Decision, ModelSpec


@dataclass(frozen=True, slots=True)
class Inspection:
    """What is known before anything is loaded."""

    device: str
    spec: ModelSpec
    memory: MemoryPlan


def inspect_checkpoint(folder: Path, settings: Settings) -> Inspection:
    """Raises: UnsupportedCheckpoint, InvalidSetting."""
    spec, device = read_served_spec(folder, settings), choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, spec.dtype, device)
    quantize = choose_quantize(settings.quantize)
    cache_bytes = plan_cache(
        spec,
        dtype,
        device,
        max_sequences=settings.max_sequences,
        kv_cache_bytes=settings.kv_cache_mib * MIB,
        taken_bytes=count_weights(spec, dtype, quantize),
    )
    plan = plan_memory(
        spec,
        dtype,
        quantize,
        free_bytes=free_bytes(device),
        cache_bytes=cache_bytes,
        max_sequences=settings.max_sequences,
    )
    decisions = [*spec.decisions, Decision("computed dtype", dtype, explain_dtype(settings.dtype, spec.dtype, dtype))]
    if not can_quantize(quantize, device):
        decisions.append(Decision("quantize", quantize, f"counted, but not served here: {device} has int8 instead"))
    return Inspection(str(device), replace(spec, decisions=tuple(decisions)), plan)

"""What a server takes on."""

from __future__ import annotations

from dataclasses import dataclass, field

from lavatube.predictions.retention import RetentionLimits


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """How much is taken on at once, and for how long; and whether owners find each other's work in the caches.

    What ran when a server died goes on if that `is_going_on`, and unless it was in the engine and silent at so many
    deaths.
    """

    max_running: int = 16
    max_waiting: int = 64
    max_waiting_bytes: int = 256 * 1024 * 1024
    timeout_s: float = 600.0
    prepare_threads: int = 16
    is_sharing_caches: bool = False
    is_going_on: bool = True
    max_deaths: int = 2
    retention: RetentionLimits = field(default_factory=RetentionLimits)

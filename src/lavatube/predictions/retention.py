"""Which predictions can still be asked for: all that run, and the finished ones for as long as there is room."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass

from lavatube.predictions.prediction import Prediction


@dataclass(frozen=True, slots=True)
class RetentionLimits:
    """Whatever is reached first forgets the prediction that finished longest ago."""

    max_count: int = 4096
    max_bytes: int = 64 * 1024 * 1024
    max_age_s: float = 3600.0


class Retention:
    """Predictions by their keys, and by what their owners call them."""

    def __init__(self, limits: RetentionLimits) -> None:
        self._limits = limits
        self._keys: dict[tuple[str, str], str] = {}
        self._running: dict[str, Prediction] = {}
        self._finished: OrderedDict[str, Prediction] = OrderedDict()
        self._finished_bytes = 0

    def __len__(self) -> int:
        return len(self._running) + len(self._finished)

    def find(self, prediction_id: str, owner: str) -> Prediction | None:
        return self.find_by_key(self._keys.get((owner, prediction_id), ""))

    def find_by_key(self, key: str) -> Prediction | None:
        self._forget_old()
        return self._running.get(key) or self._finished.get(key)

    def page(self, owner: str, origin: str, before: str | None, limit: int) -> list[str] | None:
        """The ids of one owner and API, the newest first, those before that one; None if that is not there."""
        self._forget_old()
        everything = (*self._running.values(), *self._finished.values())
        mine = [one for one in everything if (one.owner, one.origin) == (owner, origin)]
        ids = [one.id for one in sorted(mine, key=lambda one: (one.created, one.id), reverse=True)]
        if before is not None:
            if before not in ids:
                return None
            ids = ids[ids.index(before) + 1 :]
        return ids[:limit]

    def add(self, prediction: Prediction) -> None:
        assert self.find(prediction.id, prediction.owner) is None, "an id means one prediction of its owner's"
        self._keys[prediction.owner, prediction.id] = prediction.key
        self._running[prediction.key] = prediction

    def finish(self, prediction: Prediction) -> None:
        """Its log has ended, so its size no longer changes."""
        assert prediction.log.has_ended
        del self._running[prediction.key]
        self._finished[prediction.key] = prediction
        self._finished_bytes += prediction.size_bytes
        self._forget_old()

    def drop(self, prediction: Prediction) -> None:
        """Whether it has ended or not, if it is here."""
        if self._running.get(prediction.key) is prediction:
            del self._running[prediction.key]
        elif self._finished.get(prediction.key) is prediction:
            del self._finished[prediction.key]
            self._finished_bytes -= prediction.size_bytes
        else:
            return
        del self._keys[prediction.owner, prediction.id]

    def _forget_old(self) -> None:
        now = time.monotonic()
        while self._finished:
            oldest = next(iter(self._finished.values()))
            assert oldest.completed is not None
            is_old = now - oldest.completed > self._limits.max_age_s
            is_full = len(self._finished) > self._limits.max_count or self._finished_bytes > self._limits.max_bytes
            if not (is_old or is_full):
                return
            self.drop(oldest)

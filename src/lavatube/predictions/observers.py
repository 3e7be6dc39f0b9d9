"""Who is told what happens to predictions: metrics, webhooks. They are told at once, and must be quick."""

from __future__ import annotations

from typing import Protocol

from lavatube.predictions.prediction import Prediction


class Observer(Protocol):
    def created(self, prediction: Prediction) -> None: ...

    def started(self, prediction: Prediction) -> None: ...

    def written(self, prediction: Prediction) -> None: ...

    def ended(self, prediction: Prediction) -> None: ...

"""Who is told what happens to predictions: metrics, webhooks. They are told at once, and must be quick."""

from __future__ import annotations

from typing import Protocol

from lavatube.predictions.prediction import Prediction


class Observer(Protocol):
    """When `ended` is called the prediction has its end, and its readers may have been told."""

    def created(self, prediction: Prediction) -> None: ...

    def started(self, prediction: Prediction) -> None: ...

    def written(self, prediction: Prediction) -> None: ...

    def ended(self, prediction: Prediction) -> None: ...

    def released(self, prediction: Prediction) -> None:
        """It goes on, but not on this server."""

"""Whether the model that a request names is the one that is served."""

from __future__ import annotations

from collections.abc import Sequence

from lavatube.errors import ModelNotFound


def check_model(name: str, names: Sequence[str]) -> None:
    """`names`: what the model may be called, first what it is. Raises ModelNotFound."""
    if name not in names:
        raise ModelNotFound("There is no such model here.", param="model", remedy=f"This server serves {names[0]}.")

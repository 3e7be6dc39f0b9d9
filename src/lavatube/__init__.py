"""Host a LLaVA model: weights from a CDN, loaded once, answers streamed token by token."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lavatube.predictor import Predictor

__all__ = ["Predictor", "__version__"]
__version__ = version("lavatube")


def __getattr__(name: str) -> Any:
    if name == "Predictor":  # on demand: the front process and `lavatube --help` must not pay for torch
        from lavatube.predictor import Predictor

        return Predictor
    raise AttributeError(f"module 'lavatube' has no attribute {name!r}")

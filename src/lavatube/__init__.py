"""Host a LLaVA model: weights from a CDN, loaded once, answers streamed token by token."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lavatube.predictor import Predictor

    __version__: str

__all__ = ["Predictor", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Predictor":  # on demand: the front process and `lavatube --help` must not pay for torch
        from lavatube.predictor import Predictor

        return Predictor
    if name == "__version__":  # a look through all packages that are installed
        from importlib.metadata import version

        return version("lavatube")
    raise AttributeError(f"module 'lavatube' has no attribute {name!r}")

"""What there is twice: in torch, and as a kernel, which runs once it has proved on the device that it does the same."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, Final, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
_TOLERANCES: Final = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""Of results of about one: some roundings of the type."""


class Operation(Generic[Arguments, Result]):
    """Called, it is the kernel where that `is_proven`, and else its twin."""

    def __init__(self, name: str, twin: Callable[Arguments, Result]) -> None:
        self.name = name
        self.twin = twin
        self._kernel: Callable[Arguments, Result] | None = None

    @property
    def is_proven(self) -> bool:
        return self._kernel is not None

    def __call__(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        return (self._kernel or self.twin)(*args, **kwargs)

    def prove(self, kernel: Callable[Arguments, Result], examples: Iterable[tuple[Any, ...]]) -> None:
        """Take the kernel if on each example it returns, and leaves in its arguments, what the twin does.

        If not, the log says so once, and torch goes on.
        """
        try:
            self.compare(kernel, examples)
        except Exception as error:  # noqa: BLE001 - a compiler and a driver may raise anything; torch needs neither
            logger.warning("%s: the kernel is not used, torch does it, slower: %s", self.name, first_lines(error))
        else:
            self._kernel = kernel

    def compare(self, kernel: Callable[Arguments, Result], examples: Iterable[tuple[Any, ...]]) -> None:
        """Raises: AssertionError where it differs from the twin, and what else it raises."""
        for example in examples:
            torch.testing.assert_close(
                *(_outcome(means, example) for means in (kernel, self.twin)),
                rtol=(tolerance := _tolerance(example)),
                atol=tolerance,
                equal_nan=True,  # of a cache, what nobody has written to
            )


def _outcome(means: Callable[..., Any], example: tuple[Any, ...]) -> list[Any]:
    """What is returned, and the arguments afterwards."""
    arguments = [each.clone() if isinstance(each, Tensor) else each for each in example]
    returned = means(*arguments)
    return [returned, *(each for each in arguments if isinstance(each, Tensor))]


def _tolerance(example: tuple[Any, ...]) -> float:
    return max(_TOLERANCES[each.dtype] for each in example if isinstance(each, Tensor) and each.dtype in _TOLERANCES)


def first_lines(error: Exception) -> str:
    """What an error says, on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]

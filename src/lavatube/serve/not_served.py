"""Parameters that OpenAI's API has: labels without effect, and those refused unless their value asks for nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from lavatube.serve.fields import Problem, invalid

NotServed = Mapping[str, tuple[tuple[object, ...], str]]

# Labels, hints for billing and caching: nothing about the answer depends on them.
LABELS: Final = frozenset(
    {
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "user",
    }
)


def not_served(body: Mapping[str, object], parameters: NotServed) -> list[Problem]:
    """What is asked for all the same.

    `parameters`: of each the values that ask for nothing, as null does, and why it is not served.
    """
    return [
        Problem(name, f"{name} is not served: {why}.", "Leave it out.")
        for name, (neutral, why) in parameters.items()
        if not (body.get(name) is None or _is_one_of(body[name], neutral))
    ]


def refuse_not_served(body: Mapping[str, object], parameters: NotServed) -> None:
    """Raises InvalidFields."""
    if problems := not_served(body, parameters):
        raise invalid(problems)


def _is_one_of(value: object, neutral: tuple[object, ...]) -> bool:
    """As JSON knows it: true is not 1."""
    return any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in neutral)

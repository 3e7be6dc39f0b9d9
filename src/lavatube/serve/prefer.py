"""The `Prefer` header: whether to answer at once, and how long to wait.

Source: RFC 7240. A preference that is unknown or malformed is not applied; `Preference-Applied` says what was.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Preference:
    """`wait_s` None: as long as it takes. `has_wait`: there was a `wait`, with a number or without."""

    is_async: bool = False
    wait_s: float | None = None
    has_wait: bool = field(default=False, compare=False)

    @property
    def wait_limit_s(self) -> float | None:
        """Seconds until the answer must be given, finished or not; None: when it is finished."""
        if self.wait_s is not None:
            return self.wait_s
        return 0.0 if self.is_async else None

    @property
    def headers(self) -> dict[str, str]:
        applied = ["respond-async"] if self.is_async else []
        if self.wait_s is not None:
            applied.append(f"wait={self.wait_s:g}")
        return {"Preference-Applied": ", ".join(applied)} if applied else {}


def parse_prefer(values: list[str]) -> Preference:
    """The lines of all `Prefer` headers. The first of two equal names counts."""
    preferences: dict[str, str] = {}
    for item in ",".join(values).split(","):
        name, _, value = item.partition(";")[0].partition("=")
        preferences.setdefault(name.strip().lower(), value.strip().strip('"'))
    wait = preferences.get("wait", "")
    wait_s = float(wait) if wait.isascii() and wait.isdigit() and len(wait) < 6 else None
    return Preference("respond-async" in preferences, wait_s, "wait" in preferences)

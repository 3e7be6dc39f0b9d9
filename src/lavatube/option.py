"""One option of the server: how it is written as a flag and as a variable, and which values it takes.

Knows neither which options there are nor where their values come from; settings.py does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from lavatube.errors import InvalidSetting

Setting = str | int | float | bool | Path
_KINDS: Final = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}


def declare(
    default: Any,
    doc: str,
    *,
    least: float = 0,
    most: float = 2**53,
    pattern: str = "",
    choices: tuple[str, ...] = (),
    platform: tuple[str, ...] = (),
    secret: bool = False,
) -> Any:
    """The value of a field that is an option; `platform` names variables that others set for the same thing."""
    facts = {"least": least, "most": most, "pattern": pattern, "choices": choices}
    return field(default=default, metadata={"doc": doc, "platform": platform, "is_secret": secret, **facts})


@dataclass(frozen=True, slots=True)
class Option:
    """One field of Settings, as the command line and the docs show it."""

    name: str
    section: str
    type: type
    default: Any
    doc: str
    platform: tuple[str, ...]
    is_secret: bool
    choices: tuple[str, ...]
    pattern: str
    least: float
    most: float

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return "LAVATUBE_" + self.name.upper()

    def parse(self, text: str, where: str) -> Any:
        """Raises InvalidSetting, naming where the text came from."""
        try:
            if self.type is bool:
                value: Any = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[
                    text.lower()
                ]
            elif self.type is Path:
                value = Path(text)
            else:
                value = self.type(text)
        except (KeyError, ValueError):
            raise InvalidSetting(f"{where}: {text!r} is not {_KINDS[self.type]}.") from None
        self.check(value, where)
        return value

    @property
    def metavar(self) -> str:
        if self.choices:
            return "{" + ",".join(self.choices) + "}"
        return {str: "TEXT", int: "N", float: "SECONDS", Path: "PATH"}[self.type]

    def check(self, value: Any, where: str) -> None:
        """Raises InvalidSetting for a value of the wrong type or out of its range."""
        wanted = (float, int) if self.type is float else self.type
        if not isinstance(value, wanted) or (self.type is not bool and isinstance(value, bool)):
            raise InvalidSetting(f"{where}: {value!r} is not {_KINDS[self.type]}.")
        if self.choices and value not in self.choices:
            raise InvalidSetting(f"{where}: {value!r} is none of {', '.join(self.choices)}.")
        if isinstance(value, str) and self.pattern and not re.fullmatch(self.pattern, value):
            raise InvalidSetting(f"{where}: {value!r} does not fit: {self.doc}.")
        if isinstance(value, int | float) and not self.least <= value <= self.most:
            raise InvalidSetting(f"{where}: {value!r} is not between {self.least:,g} and {self.most:,g}.")

"""The commands' parsers: settings as flags, mistakes in a sentence; and the settings of a parsed command line."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Final, NoReturn, TypeAlias

from lavatube.errors import InvalidSetting
from lavatube.option import Option
from lavatube.settings import Settings, options, read_settings

_WIDTH: Final = 100
Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


class Parser(argparse.ArgumentParser):
    """Says what is wrong and where to read on, instead of listing every flag; takes no flag by its first letters."""

    def __init__(self, prog: str, *, description: str, epilog: str = "", usage: str | None = None) -> None:
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(
            prog, description=description, epilog=epilog, usage=usage, formatter_class=layout, allow_abbrev=False
        )
        self.set_defaults(parser=self)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n`{self.prog} --help` says more.\n")

    def refuse_unknown(self, words: list[str]) -> NoReturn:
        """Ends the process: `words` are what nothing was found for."""
        flag = next((word.partition("=")[0] for word in words if word.startswith("-")), "")
        if not flag:
            self.error(f"there is no place for {' '.join(map(repr, words))}")
        near = get_close_matches(flag, self._option_string_actions, n=1, cutoff=0.5)
        self.error(f"there is no {flag}" + (f"; {near[0]} may be meant" if near else ""))


def add_command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], int],
    summary: str,
    examples: str = "",
) -> Parser:
    """A command of its own, whose namespace says what to run."""
    description = summary[0].upper() + summary[1:] + "."
    parser = commands.add_parser(name, help=summary, description=description, epilog=examples)
    parser.set_defaults(command=run)
    return parser


def add_settings(parser: Parser, names: Iterable[str]) -> None:
    """The flags of some settings, by sections. Secrets have none: other users of a machine can read a command line.

    What is not given stays away from the namespace: an action's own default would overwrite its command's value.
    """
    parser.usage = f"{' '.join(parser.format_usage().split()[1:])} [settings]"
    general = parser.add_argument_group("settings", "Each is also the environment variable in brackets.")
    file_help = "a TOML file of settings, by the variables' names without LAVATUBE_, in small letters"
    general.add_argument("--config", type=Path, metavar="FILE", help=file_help, default=argparse.SUPPRESS)
    wanted, secrets = set(names), list[str]()
    groups: dict[str, argparse._ArgumentGroup] = {}
    for option in options():
        if option.name not in wanted:
            continue
        if option.is_secret:
            secrets.append(f"{option.variable} is the {option.doc}")
            continue
        if option.section not in groups:
            groups[option.section] = parser.add_argument_group(option.section)
        default = "" if option.default in ("", False) else f"; default: {_shown(option.default)}"
        text = f"{option.doc}{default} [{', '.join((option.variable, *option.platform))}]".replace("%", "%%")
        add = partial(groups[option.section].add_argument, option.flag, dest=option.name, help=text)
        if option.type is bool:
            add(action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS)
        else:
            add(type=_typed(option), metavar=option.metavar, default=argparse.SUPPRESS)
    if secrets:
        more = f"{general.description} Variables only: {'; '.join(secrets)}."
        general.description = textwrap.fill(more, _WIDTH)


def _typed(option: Option) -> Callable[[str], object]:
    def parse(text: str) -> object:
        try:
            return option.parse(text, option.flag)
        except InvalidSetting as error:
            message = error.message.removeprefix(f"{option.flag}: ")  # argparse names it, too
            raise argparse.ArgumentTypeError(message) from None

    return parse


def _shown(default: object) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    return f"{default:g}" if isinstance(default, float) else str(default)


def settings_of(arguments: argparse.Namespace) -> Settings:
    """From the flags that were given, the environment and the file. Raises: InvalidSetting."""
    flags = {option.name: getattr(arguments, option.name, None) for option in options()}
    return read_settings(flags, file=getattr(arguments, "config", None))


def image_size(text: str) -> tuple[int, int]:
    """The width and height of 640x480."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and 0 < int(width) < 10**6 and 0 < int(height) < 10**6):
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 640x480")
    return int(width), int(height)

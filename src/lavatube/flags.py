"""Settings as flags: what every command's parser is made of, and the settings of a parsed command line."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, TypeAlias

from lavatube.errors import InvalidSetting
from lavatube.settings import Option, Settings, options, read_settings

_WIDTH: Final = 100
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], int],
    summary: str,
    examples: str = "",
) -> argparse.ArgumentParser:
    """A command of its own, whose namespace says what to run."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=run)
    return parser


def add_settings(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """The flags of some settings. Secrets have none: other users of a machine can read a command line.

    What is not given stays away from the namespace: an action's own default would overwrite its command's value.
    """
    group = parser.add_argument_group("settings", "Each is also the environment variable in brackets.")
    group.add_argument("--config", type=Path, metavar="FILE", help="a TOML file of settings", default=argparse.SUPPRESS)
    wanted, secrets = set(names), list[str]()
    for option in options():
        if option.name not in wanted:
            continue
        default = f"; default: {_shown(option.default)}" if option.default not in ("", False) else ""
        text = f"{option.doc}{default} [{', '.join((option.variable, *option.platform))}]".replace("%", "%%")
        if option.is_secret:
            secrets.append(f"{option.variable} is the {option.doc}")
        elif option.type is bool:
            action = argparse.BooleanOptionalAction
            group.add_argument(option.flag, dest=option.name, action=action, help=text, default=argparse.SUPPRESS)
        else:
            parse, metavar = _typed(option), option.metavar
            group.add_argument(
                option.flag, dest=option.name, type=parse, metavar=metavar, help=text, default=argparse.SUPPRESS
            )
    if secrets:
        more = f"{group.description} Variables only: {'; '.join(secrets)}."
        group.description = textwrap.fill(more, _WIDTH)


def _typed(option: Option) -> Callable[[str], object]:
    def parse(text: str) -> object:
        try:
            return option.parse(text, option.flag)
        except InvalidSetting as error:
            message = error.message.removeprefix(f"{option.flag}: ")  # argparse names it, too
            raise argparse.ArgumentTypeError(message) from None

    return parse


def _shown(default: object) -> str:
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

"""The commands' parsers: settings as flags, mistakes in a sentence; and the settings of a parsed command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn, TypeAlias

from lavatube.errors import InvalidSetting
from lavatube.option import Option
from lavatube.settings import Settings, options, read_settings

PROVISION: Final = (
    "cache", "base_cache", "verify", "lock", "allow_unverified", "mirrors", "bucket_endpoint", "bucket_unsigned",
    "hf_endpoint", "hf_token", "hf_cache",
)  # fmt: skip
"""The settings of every command that brings a model's weights."""
MODEL_HELP: Final = (
    "tiny (embedded, the default), a directory, org/name, hf://org/name@revision, https://…, s3://…, gs://…, az://… or "
    "file://…; of URLs also a .tar"
)
_WIDTH: Final = 100
Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


class Parser(argparse.ArgumentParser):
    """Says what is wrong and where to read on, instead of listing every flag; takes no flag by its first letters.

    The flags of its settings are made when it is used: of all commands only one is, and each flag takes its time.
    """

    def __init__(self, prog: str, *, description: str, epilog: str = "", usage: str | None = None) -> None:
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(
            prog, description=description, epilog=epilog, usage=usage, formatter_class=layout, allow_abbrev=False
        )
        self.set_defaults(parser=self)
        self._settings: tuple[Option, ...] = ()
        self._own: list[argparse.Action] | None = None
        """Without the settings' flags; None as long as there are none."""

    def have_settings(self, names: Iterable[str]) -> None:
        """What is added after this is shown after their flags."""
        wanted = set(names)
        self._settings = tuple(option for option in options() if option.name in wanted)

    def parse_known_args(self, *arguments: Any, **named: Any) -> Any:
        self._add_flags()
        return super().parse_known_args(*arguments, **named)

    def format_help(self) -> str:
        self._add_flags()
        if self._own is not None:
            formatter = self._get_formatter()
            formatter.add_usage(None, self._own, ())
            self.usage = f"{' '.join(formatter.format_help().split()[1:])} [settings]"
        return super().format_help()

    def _add_flags(self) -> None:
        if self._settings and self._own is None:
            self._own = list(self._actions)
            _add_flags(self, self._settings)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n`{self.prog} --help` says more.\n")

    def refuse_unknown(self, words: list[str]) -> NoReturn:
        """Ends the process: `words` are what nothing was found for."""
        flag = next((word.partition("=")[0] for word in words if word.startswith("-")), "")
        if not flag:
            self.error(f"there is no place for {' '.join(map(repr, words))}")
        from difflib import get_close_matches  # would delay every command

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


def _add_flags(parser: Parser, settings: Iterable[Option]) -> None:
    """The flags of some settings, by sections. Secrets have none: other users of a machine can read a command line.

    What is not given stays away from the namespace: an action's own default would overwrite its command's value.
    """
    general = parser.add_argument_group("settings", "Each is also the environment variable in brackets.")
    file_help = "a TOML file of settings, by the variables' names without LAVATUBE_, in small letters"
    general.add_argument("--config", type=Path, metavar="FILE", help=file_help, default=argparse.SUPPRESS)
    secrets = list[str]()
    groups: dict[str, argparse._ArgumentGroup] = {}
    for option in settings:
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
        general.description = _filled(more)


def _filled(text: str) -> str:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > _WIDTH:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return "\n".join(lines)


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

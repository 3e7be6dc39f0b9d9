"""`lavatube keys`: make API keys, list them, revoke them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lavatube.errors import InvalidSetting
from lavatube.flags import Commands, add_command, settings_of

_KEYS_EXAMPLES = """examples:
  lavatube keys add phone-app --max-streams 4 --requests-per-minute 60
  lavatube keys add scraper --operator              may read /metrics
  lavatube keys ls
  lavatube keys revoke phone-app                    a running server knows it within seconds"""


def add_keys(commands: Commands) -> None:
    """The command and its actions."""
    keys = add_command(commands, "keys", _keys_list, "make API keys, list them, or revoke one", _KEYS_EXAMPLES)
    actions = keys.add_subparsers(metavar="ACTION")
    add = add_command(actions, "add", _keys_add, "make a key, and show it once")
    add.add_argument("name", help="whose it is, in up to 64 letters, digits and . _ -")
    for flag, text in (
        ("--max-streams", "predictions at once"),
        ("--requests-per-minute", "requests in a minute"),
        ("--tokens-per-minute", "tokens, read and written, in a minute"),
    ):
        add.add_argument(flag, type=_number(0), default=0, metavar="N", help=f"{text}; 0: as the server's settings say")
    add.add_argument(
        "--weight", type=_number(1), default=1, metavar="N", help="turns it has for each of a key with 1 (default: 1)"
    )
    add.add_argument(
        "--priority",
        type=_number(-4),
        default=0,
        metavar="N",
        help="-4 to 4; one more is eight turns for each of the next lower one (default: 0)",
    )
    add.add_argument("--operator", action="store_true", help="may also read /metrics and stop the server")
    revoke = add_command(actions, "revoke", _keys_revoke, "make a key open nothing any more")
    revoke.add_argument("name", help="the name it was made with")
    for action in (keys, add, add_command(actions, "ls", _keys_list, "list the keys, without their secrets"), revoke):
        action.have_settings(("database", "cache"))


def _number(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        number = int(text)
        if not least <= number < 2**53:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return number

    return parse


def _keys_list(arguments: argparse.Namespace) -> int:
    from lavatube.terminal import show_keys

    with _key_store(arguments) as store:
        show_keys(store.all())
    return 0


def _keys_add(arguments: argparse.Namespace) -> int:
    from lavatube.predictions.owners import OwnerLimits

    limits = OwnerLimits(
        max_streams=arguments.max_streams,
        requests_per_minute=arguments.requests_per_minute,
        tokens_per_minute=arguments.tokens_per_minute,
        weight=arguments.weight,
        priority=arguments.priority,
    )
    with _key_store(arguments) as store:
        _, text = store.add(arguments.name, limits, is_operator=arguments.operator)
    print("This is the only time that the key is shown:", file=sys.stderr)
    print(text)
    return 0


def _keys_revoke(arguments: argparse.Namespace) -> int:
    with _key_store(arguments) as store:
        store.revoke(arguments.name)
    print(f"revoked {arguments.name}")
    return 0


@contextmanager
def _key_store(arguments: argparse.Namespace) -> Iterator[Any]:
    from lavatube.predictions.database import open_database
    from lavatube.predictions.keys import KeyStore

    url = settings_of(arguments).database_url
    if not url:
        raise InvalidSetting("Keys are kept in the database, and it is off.", remedy="Name one with --database.")
    engine = open_database(url)
    try:
        yield KeyStore(engine)
    finally:
        engine.dispose()

"""`lavatube cache`: what is in the cache, and what to remove from it."""

from __future__ import annotations

import argparse

from lavatube.flags import Commands, add_command, settings_of
from lavatube.settings import MIB

_CACHE_EXAMPLES = """examples:
  lavatube cache ls
  lavatube cache rm llava-1.5-7b-hf
  lavatube cache gc --max-size 50G                  and forgets the sets that were used longest ago"""


def add_cache(commands: Commands) -> None:
    """The command and its actions."""
    cache = add_command(commands, "cache", _cache_list, "list what is in the cache, or remove from it", _CACHE_EXAMPLES)
    actions = cache.add_subparsers(metavar="ACTION")
    remove = add_command(actions, "rm", _cache_remove, "remove one set of weights")
    remove.add_argument("set", help="its name, its source, or the first 6 digits of its digest")
    collect = add_command(actions, "gc", _cache_collect, "remove what no set of weights needs")
    collect.add_argument(
        "--max-size", type=_size, metavar="SIZE", help="and sets, least recently used first, until it fits; 50G, 500MiB"
    )
    for action in (cache, add_command(actions, "ls", _cache_list, "list the sets of weights"), remove, collect):
        action.have_settings(("cache",))


def _size(text: str) -> int:
    number, power = text.upper().removesuffix("B").removesuffix("I"), 0
    if number[-1:] in ("K", "M", "G", "T"):
        number, power = number[:-1], "KMGT".index(number[-1]) + 1
    try:
        return int(float(number) * 1024**power)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 50G") from None


def _cache_list(arguments: argparse.Namespace) -> int:
    from lavatube.terminal import show_cache
    from lavatube.weights.cache import Cache
    from lavatube.weights.upkeep import list_sets

    cache = Cache(settings_of(arguments).cache_folder)
    show_cache(cache.root, list_sets(cache))
    return 0


def _cache_remove(arguments: argparse.Namespace) -> int:
    from lavatube.weights.cache import Cache
    from lavatube.weights.upkeep import remove_set

    removed, freed_bytes = remove_set(Cache(settings_of(arguments).cache_folder), arguments.set)
    print(f"removed {removed.name} ({removed.set_digest:.12}), {freed_bytes / MIB:.1f} MiB")
    return 0


def _cache_collect(arguments: argparse.Namespace) -> int:
    from lavatube.weights.cache import Cache
    from lavatube.weights.upkeep import collect

    cache = Cache(settings_of(arguments).cache_folder)
    print(f"removed {collect(cache, max_bytes=arguments.max_size, tell=print) / MIB:.1f} MiB")
    return 0

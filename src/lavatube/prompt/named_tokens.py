"""The small files beside a tokenizer: which tokens have a role, and which were added to its vocabulary.

Knows no tokenizer library.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from lavatube.errors import UnsupportedCheckpoint

MAX_FILE_BYTES: Final = 128 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Added:
    """One token that was added to a vocabulary. It swallows the white space on a side that is set."""

    content: str
    strips_left: bool = False
    strips_right: bool = False


@dataclass(frozen=True, slots=True)
class NamedTokens:
    """`roles` by name, as in `bos_token`; `additional` has none; `added` by id."""

    roles: dict[str, str] = field(default_factory=dict)
    additional: tuple[str, ...] = ()
    added: dict[int, Added] = field(default_factory=dict)
    adds_start: bool = True

    @property
    def special(self) -> frozenset[str]:
        """All that have a role."""
        return frozenset((*self.roles.values(), *self.additional))


def read_named_tokens(folder: Path) -> NamedTokens:
    """What special_tokens_map.json, added_tokens.json and tokenizer_config.json say; the last has the last word."""
    roles: dict[str, str] = {}
    additional: tuple[str, ...] = ()
    config: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        config = read_json_if_there(folder / name)
        roles |= {key: _content(value) for key, value in config.items() if key.endswith("_token") and _content(value)}
        listed = config.get("additional_special_tokens")
        if isinstance(listed, list):
            additional = tuple(filter(None, map(_content, listed)))
    added = _added_tokens(read_json_if_there(folder / "added_tokens.json")) | _added_tokens_decoder(config)
    return NamedTokens(roles, additional, added, config.get("add_bos_token") is not False)


def _added_tokens(ids: dict[str, Any]) -> dict[int, Added]:
    return {token_id: Added(token) for token, token_id in ids.items() if type(token_id) is int and token_id >= 0}


def _added_tokens_decoder(config: dict[str, Any]) -> dict[int, Added]:
    entries = config.get("added_tokens_decoder")
    return {
        int(token_id): Added(entry["content"], bool(entry.get("lstrip")), bool(entry.get("rstrip")))
        for token_id, entry in (entries.items() if isinstance(entries, dict) else ())
        if token_id.isdecimal() and isinstance(entry, dict) and isinstance(entry.get("content"), str)
    }


def _content(value: object) -> str:
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else ""


def read_small_file(path: Path) -> bytes:
    """Raises UnsupportedCheckpoint for a file that is not there, and for one that no tokenizer needs."""
    try:
        size_bytes = path.stat().st_size
    except FileNotFoundError:
        raise UnsupportedCheckpoint(
            f"There is no {path.name} in the checkpoint's folder.",
            remedy="Use a checkpoint that ships its tokenizer in this form.",
        ) from None
    if size_bytes > MAX_FILE_BYTES:
        raise UnsupportedCheckpoint(f"{path.name} has {size_bytes} bytes; {MAX_FILE_BYTES} are the most that are read.")
    return path.read_bytes()


def read_json_if_there(path: Path) -> dict[str, Any]:
    """Empty where there is no such file."""
    return read_json(path) if path.is_file() else {}


def read_json(path: Path) -> dict[str, Any]:
    """Raises UnsupportedCheckpoint for a file that is not there, and for one that is no JSON object."""
    try:
        value = json.loads(read_small_file(path))
    except (ValueError, RecursionError) as error:
        raise UnsupportedCheckpoint(f"{path.name} is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise UnsupportedCheckpoint(f"{path.name} is not a JSON object.")
    return value

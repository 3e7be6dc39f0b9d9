"""What a source meant when it was last met: the set, and who vouched for it then."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

from lavatube.weights.notes import read_note, write_note
from lavatube.weights.options import Trust

_SET_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Recalled:
    """What a source meant when it was last met, and who vouched for it then."""

    set_digest: str
    trust: Trust


def ref_name(identity: str) -> str:
    """The file's name for a source."""
    return f"{hashlib.sha256(identity.encode()).hexdigest()}.json"


def read_ref(path: Path) -> Recalled | None:
    """None for a note that is missing or broken."""
    match read_note(path):
        case {"setDigest": str(digest), "trust": str(trust)} if _SET_DIGEST.fullmatch(digest):
            return next((Recalled(digest, known) for known in get_args(Trust) if known == trust), None)
        case _:
            return None


def write_ref(path: Path, recalled: Recalled) -> None:
    """Raises: CacheUnusable."""
    write_note(path, {"setDigest": recalled.set_digest, "trust": recalled.trust})

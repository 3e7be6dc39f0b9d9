"""What the caller decides about provisioning, and how patient it is with a network. Plain values; reads nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from lavatube.trace import Trace

MIB: Final = 1024 * 1024
MAX_CONNECTIONS: Final = 32
CONNECTION_BYTES: Final = 8 * MIB
"""What one of them takes at most: its buffer, and what the kernel keeps for its socket (6 MiB, by `tcp_rmem`)."""
IN_FLIGHT_SHARE: Final = 32
"""Of the memory that a container is left: one part in so many is for what is in flight."""

Trust = Literal["pinned", "hub", "manifest", "local", "unverified"]
"""Who vouches for the bytes, best first.

pinned: the operator's lock file; hub: digests of the hub's API at one commit, over TLS; manifest: a
`lavatube.lock.json` beside the files; local: a folder of this machine; unverified: nobody.
"""


def connections_within(left_bytes: int | None) -> int:
    """How many connections a fetch may have where a container is left so many bytes; None: it has no limit."""
    if left_bytes is None:
        return MAX_CONNECTIONS
    return max(1, min(MAX_CONNECTIONS, left_bytes // (IN_FLIGHT_SHARE * CONNECTION_BYTES)))


@dataclass(frozen=True, slots=True)
class Policy:
    """How files are cut into requests, and when a source is given up."""

    chunk_bytes: int = 16 * MIB
    connections: int = 4
    """With how many a fetch begins; it goes up to `max_connections` as long as that makes it faster."""
    max_connections: int = MAX_CONNECTIONS
    race_after_s: float = 1.0
    """The least that a span gets before another connection tries the same."""
    max_tries: int = 5
    """Tries in a row that bring less than `min_progress_bytes` (or the rest, where that is less)."""
    min_progress_bytes: int = MIB
    backoff_s: float = 0.25
    max_wait_s: float = 60.0
    """Longest pause between two tries, whatever `Retry-After` asks for."""
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 20.0
    min_rate_bytes_s: int = 4096
    """A body that is slower than this for `read_timeout_s` is given up and asked for again."""
    lock_wait_s: float = 1800.0
    """How long another process that fetches the same set is waited for."""


@dataclass(frozen=True, slots=True)
class ProvisionOptions:
    """Where weights are kept, and what is trusted."""

    cache: Path
    lock: Path | None = None
    allow_unverified: bool = False
    hf_endpoint: str = "https://huggingface.co"
    hf_token: str = field(default="", repr=False)
    hf_cache: Path | None = None
    """The hub library's cache: what it has already is hashed and taken from there."""
    mirrors: tuple[str, ...] = ()
    """Folders of other servers with the same files, in the order in which they stand in for the source."""
    bucket_endpoint: str = ""
    bucket_unsigned: bool = False
    is_thorough: bool = False
    """Whether a ready set is hashed again before it is used."""
    base: Path | None = None
    """A cache that is only read; what it lacks goes into `cache`."""
    policy: Policy = Policy()
    trace: Trace = field(default_factory=Trace, compare=False)
    on_staged: Callable[[Provisioned], None] | None = None
    """Told of a folder in which the set can be opened while it is fetched, where there is one: see arrival.py.

    It is the caller's to remove.
    """


@dataclass(frozen=True, slots=True)
class Provisioned:
    """The outcome of phase 1.

    `source` has the revision filled in and no secrets. `set_digest` is empty for a folder that is used in place without
    a manifest. `from_cache`: nothing had to be fetched.
    """

    folder: Path
    set_digest: str
    trust: Trust
    total_bytes: int
    from_cache: bool
    source: str

"""Which servers share the database, and which of them are dead: what a dead one held is free. Blocking.

A server is one row. Every transaction of it begins by raising the number in that row, and whoever takes it for dead
deletes the row as it was last seen: only one of the two can succeed. So a server that was merely slow can write nothing
any more once others have its work, and nothing depends on clocks that two machines would have to agree on.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sqlalchemy import BigInteger, Column, Connection, Engine, String, Table, bindparam, delete, insert, select, update

from lavatube.predictions.tables import metadata

BEAT_S: Final = 3.0
LEASE_S: Final = 15.0
PROC: Final = Path("/proc")

SERVERS: Final = Table(
    "servers",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("host", String(128), nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("started", BigInteger, nullable=False),  # of the process, in the kernel's own count: a pid is used again
    Column("beats", BigInteger, nullable=False),
)
_BEAT: Final = update(SERVERS).where(SERVERS.c.id == bindparam("of")).values(beats=SERVERS.c.beats + 1)


class LeaseLost(Exception):
    """Others take this server for dead, and may have taken what it held."""


class Leases:
    """One server's own lease, and its view of the others'.

    `clock` is monotonic. Processes of one `host` can look each other up; "" is nobody's.
    """

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic, host: str | None = None) -> None:
        self.holder = ""
        self._engine = engine
        self._clock = clock
        self._host = _this_host() if host is None else host
        self._seen: dict[str, tuple[int, float]] = {}

    def enter(self) -> None:
        """Get a lease, if there is none, in a transaction of its own: it is there whatever becomes of the next one."""
        if not self.holder:
            with self._engine.begin() as connection:
                holder = self._register(connection)
            self.holder = holder

    def hold(self, connection: Connection) -> None:
        """At the beginning of every transaction. Raises: LeaseLost; then another lease is to be got."""
        if not connection.execute(_BEAT, {"of": self.holder}).rowcount:
            self.holder = ""
            raise LeaseLost

    def dead(self) -> list[tuple[str, int]]:
        """Other servers that are gone, with their beats as last seen.

        A process of this machine is looked up. Any other server is dead when it was seen to do nothing for LEASE_S.
        """
        with self._engine.connect() as connection:
            others = connection.execute(select(SERVERS).where(SERVERS.c.id != self.holder)).all()
        now_s = self._clock()
        seen, self._seen = self._seen, {}
        found = []
        for server in others:
            beats, since_s = seen.get(server.id, (-1, now_s))
            since_s = since_s if beats == server.beats else now_s
            self._seen[server.id] = server.beats, since_s
            is_here = bool(self._host) and server.host == self._host
            has_gone = _process_start(server.pid) != server.started if is_here else now_s - since_s > LEASE_S
            if has_gone:
                found.append((server.id, server.beats))
        return found

    def bury(self, connection: Connection, server_id: str, beats: int) -> bool:
        """Whether it was dead: it has done nothing since it was seen so."""
        as_seen = (SERVERS.c.id == server_id) & (SERVERS.c.beats == beats)
        return connection.execute(delete(SERVERS).where(as_seen)).rowcount == 1

    def leave(self, connection: Connection) -> None:
        connection.execute(delete(SERVERS).where(SERVERS.c.id == self.holder))
        self.holder = ""

    def _register(self, connection: Connection) -> str:
        """Under a new name each time: what was lost under the old one stays lost."""
        holder, pid = secrets.token_hex(16), os.getpid()
        values = {"id": holder, "host": self._host, "pid": pid, "started": _process_start(pid) or 0, "beats": 0}
        connection.execute(insert(SERVERS).values(values))
        return holder


def _this_host() -> str:
    """The same for two processes only if each can look the other up; empty where that can't be told."""
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}-{(PROC / 'self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def _process_start(pid: int) -> int | None:
    """None if it does not run. Source: proc(5), fields 3 and 22 of stat."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])

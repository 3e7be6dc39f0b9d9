"""One life of a worker process, seen from the front: started, connected, talked to, ended. Decides nothing."""

from __future__ import annotations

import asyncio
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

from lavatube.engine.frames import Frames, decode_events, frame
from lavatube.engine.wire import Command, Event

EXIT_GRACE_S: Final = 2.0
_READ_BYTES: Final = 1 << 20  # after a pause, all that has come is taken at once


def worker_command(threads: int = 0, log_level: str = "info", log_format: str = "text") -> list[str]:
    """What starts a worker. With -P a file `torch.py` in the current directory stays what it is."""
    options = ["--threads", str(threads), "--log-level", log_level, "--log-format", log_format]
    return [sys.executable, "-P", "-m", "lavatube.engine.worker", *options]


class WorkerProcess:
    """A worker that is connected."""

    def __init__(self, process: Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._frames = Frames()

    @property
    def pid(self) -> int:
        return self._process.pid

    def post(self, command: Command) -> None:
        """Send without waiting; to a worker that has died it is lost."""
        self._writer.write(frame(command))

    async def send(self, data: bytes) -> None:
        """Send a command's frame, and wait while too much is unread."""
        self._writer.write(data)
        with suppress(ConnectionError):  # its death is told by `exited` and by `receive`
            await self._writer.drain()

    async def receive(self) -> AsyncIterator[list[Event]]:
        """What it says, a frame at a time, until it hangs up. Raises ValueError or msgspec.DecodeError for no event."""
        with suppress(ConnectionError):
            while data := await self._reader.read(_READ_BYTES):
                for body in self._frames.feed(data):
                    yield decode_events(body)

    async def exited(self) -> str:
        """Waits for the process to end; says how it did."""
        status = await self._process.wait()
        return f"it was killed by signal {-status}" if status < 0 else f"it exited with status {status}"

    def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()


@asynccontextmanager
async def start_worker(command: Sequence[str]) -> AsyncIterator[WorkerProcess]:
    """A new worker. When the block ends so does it, of itself (its connection is closed) or by force.

    The connection is a socket pair, so it has no name that others could find or that would be left behind.
    """
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            number = theirs.fileno()
            process = await asyncio.create_subprocess_exec(
                *command,
                "--socket",
                str(number),
                stdin=DEVNULL,
                stdout=DEVNULL,
                pass_fds=[number],
                start_new_session=True,  # Ctrl-C is for the front, which decides what becomes of this
            )
        try:
            reader, writer = await asyncio.open_unix_connection(sock=ours, limit=_READ_BYTES)
            try:
                yield WorkerProcess(process, reader, writer)
            finally:
                # Not `close`: where a worker that hung has not read all, the loop would go on waiting to send, for a
                # number that is soon another socket's, and whoever gets that is never heard.
                writer.transport.abort()
        finally:
            ours.close()
            await _end(process)


async def _end(process: Process) -> None:
    try:
        async with asyncio.timeout(EXIT_GRACE_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()

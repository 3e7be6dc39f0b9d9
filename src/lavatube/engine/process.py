"""One life of a worker process, seen from the front: started, connected, talked to, ended. Decides nothing."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

from lavatube.engine.wire import Command, Event, Frames, decode_event, frame
from lavatube.errors import EngineCrashed

EXIT_GRACE_S: Final = 2.0
_READ_BYTES: Final = 1 << 16


def worker_command(threads: int = 0) -> list[str]:
    """What starts a worker. With -P a file `torch.py` in the current directory stays what it is."""
    return [sys.executable, "-P", "-m", "lavatube.engine.worker", "--threads", str(threads)]


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

    async def send(self, command: Command) -> None:
        """Send, and wait while too much is unread."""
        self.post(command)
        with suppress(ConnectionError):  # its death is told by `exited` and by `receive`
            await self._writer.drain()

    async def receive(self) -> list[Event]:
        """What it said next; nothing when it has hung up. Raises ValueError or msgspec.DecodeError for no event."""
        with suppress(ConnectionError):
            while data := await self._reader.read(_READ_BYTES):
                if bodies := self._frames.feed(data):
                    return [decode_event(body) for body in bodies]
        return []

    async def exited(self) -> str:
        """Waits for the process to end; says how it did."""
        status = await self._process.wait()
        return f"it was killed by signal {-status}" if status < 0 else f"it exited with status {status}"

    def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()


@asynccontextmanager
async def start_worker(command: Sequence[str], connect_timeout_s: float) -> AsyncIterator[WorkerProcess]:
    """A new worker. When the block ends so does it, of itself (its connection is closed) or by force.

    Raises: EngineCrashed if it does not connect.
    """
    connection: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Future()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.close()  # one worker, one connection
        stack.callback(writer.close)
        connection.set_result((reader, writer))

    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="lavatube-"))  # ours alone: mode 0700
        path = str(Path(folder, "engine.sock"))
        server = await asyncio.start_unix_server(accept, path)
        stack.callback(server.close)
        process = await asyncio.create_subprocess_exec(*command, "--socket", path, stdin=DEVNULL, stdout=DEVNULL)
        stack.push_async_callback(_end, process, connection)
        exit_status = asyncio.ensure_future(process.wait())
        stack.callback(exit_status.cancel)
        first: set[asyncio.Future[Any]] = {connection, exit_status}
        await asyncio.wait(first, timeout=connect_timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if not connection.done():
            raise EngineCrashed("The engine's process did not come up.")
        reader, writer = connection.result()
        yield WorkerProcess(process, reader, writer)


async def _end(process: Process, connection: asyncio.Future[Any]) -> None:
    if not connection.done():
        process.kill()  # it has nothing yet whose end would tell it
    try:
        async with asyncio.timeout(EXIT_GRACE_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()

"""Small processes that do what a hostile file could abuse, within limits, and that are killed when they pass them.

Both ends of the line are here: `Sandbox` in the front, `serve_frames` in the child. A frame is a 4-byte big-endian
length and that many bytes, over one socket pair, which is also the child's life line: it ends when the other end
closes. Knows no pictures and no templates.
"""

from __future__ import annotations

import contextlib
import queue
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

MAX_FRAME_BYTES: Final = 256 * 1024 * 1024
_LENGTH: Final = struct.Struct(">I")


class SandboxError(Exception):
    """The child ended, or took too long and was killed; why is not known, and does not matter to who asked."""


class SandboxBusy(SandboxError):
    """No child became free in time."""


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """What one question may cost: `cpu_limit_s` is counted by the kernel, `wall_limit_s` by the one who asks."""

    memory_limit_bytes: int
    cpu_limit_s: float
    wall_limit_s: float


class Sandbox:
    """One child: `python -m MODULE`, started at once, started again after each failure."""

    def __init__(self, module: str, limits: SandboxLimits) -> None:
        self._module = module
        self._limits = limits
        self._start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, body: bytes) -> bytes:
        """One frame there, one frame back. Raises SandboxError; the child has then been replaced."""
        if self._is_closed:
            raise SandboxError
        if self._process.poll() is not None:
            self._restart()  # it ended between two questions: not this one's fault
        try:
            return self._exchange(body)
        except BaseException:
            self._restart()  # or the reply to this question would be taken for that to the next
            raise

    def _exchange(self, body: bytes) -> bytes:
        deadline = time.monotonic() + self._limits.wall_limit_s
        try:
            _send(self._socket, body, deadline)
            reply = _receive(self._socket, deadline)
        except (OSError, ValueError) as error:
            raise SandboxError from error
        if reply is None:
            raise SandboxError
        return reply

    def close(self) -> None:
        """End the child; whatever is asked afterwards fails at once."""
        self._is_closed = True
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def _start(self) -> None:
        self._is_closed = False
        self._socket, theirs = socket.socketpair()
        limits = (str(self._limits.memory_limit_bytes), str(self._limits.cpu_limit_s))
        with theirs:
            self._process: subprocess.Popen[bytes] = subprocess.Popen(
                # -P: a module that happens to lie in the working directory is not ours
                [sys.executable, "-P", "-m", self._module, *limits],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the server, which then closes the line
            )

    def _restart(self) -> None:
        self.close()
        self._start()


class SandboxPool:
    """Several children that are alike; any thread may ask, and waits for one that is free."""

    def __init__(self, module: str, size: int, limits: SandboxLimits, max_wait_s: float = 60.0) -> None:
        self._max_wait_s = max_wait_s
        self._all = [Sandbox(module, limits) for _ in range(size)]
        self._free: queue.LifoQueue[Sandbox] = queue.LifoQueue()
        for sandbox in self._all:
            self._free.put(sandbox)

    @property
    def pids(self) -> list[int]:
        return [sandbox.pid for sandbox in self._all]

    def ask(self, body: bytes) -> bytes:
        """Raises SandboxError, or SandboxBusy when none is free for too long."""
        try:
            sandbox = self._free.get(timeout=self._max_wait_s)
        except queue.Empty:
            raise SandboxBusy from None
        try:
            return sandbox.ask(body)
        finally:
            self._free.put(sandbox)

    def close(self) -> None:
        """End the children, once each has answered what it was asked."""
        closed = [self._free.get() for _ in self._all]
        for sandbox in closed:
            sandbox.close()
            self._free.put(sandbox)  # so that who still waits is told, too

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def serve_frames(answer: Callable[[bytes], bytes]) -> None:
    """The child's whole life: confine itself, then answer frames until the line closes."""
    memory_limit_bytes, cpu_limit_s = int(sys.argv[1]), float(sys.argv[2])
    for limit, value in (
        (resource.RLIMIT_AS, memory_limit_bytes),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),  # a core file would hold somebody's picture
    ):
        with contextlib.suppress(ValueError, OSError):  # macOS knows no limit on address space
            resource.setrlimit(limit, (value, value))
    with socket.socket(fileno=0) as line:
        while (body := _receive(line)) is not None:
            # The default action of this timer's signal ends the process, even within a C function that never returns.
            signal.setitimer(signal.ITIMER_PROF, cpu_limit_s)
            reply = answer(body)
            signal.setitimer(signal.ITIMER_PROF, 0)
            _send(line, reply)


def _send(line: socket.socket, body: bytes, deadline: float | None = None) -> None:
    line.settimeout(_remaining(deadline))
    line.sendall(_LENGTH.pack(len(body)))
    line.sendall(body)


def _receive(line: socket.socket, deadline: float | None = None) -> bytes | None:
    """The next frame, or None when the line was closed."""
    head = _receive_exactly(line, _LENGTH.size, deadline)
    if head is None:
        return None
    (length,) = _LENGTH.unpack(head)
    if length > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {length} bytes is over the limit")
    return _receive_exactly(line, length, deadline)


def _receive_exactly(line: socket.socket, count: int, deadline: float | None) -> bytes | None:
    data = bytearray(count)
    view, done = memoryview(data), 0
    while done < count:
        line.settimeout(_remaining(deadline))
        received = line.recv_into(view[done:])
        if received == 0:
            return None
        done += received
    return bytes(data)


def _remaining(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    return remaining

"""A real `lavatube serve` in a process of its own, on a port that the system chose."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

LISTENING = re.compile(r"listening on (http://\S+)")


class Server:
    """Started on entry, ended by SIGTERM on exit; what it logged is in `log`."""

    program: tuple[str, ...] = ("-m", "lavatube.cli", "serve")

    def __init__(self, model: str, cache: Path, *flags: str, environ: dict[str, str] | None = None) -> None:
        command = [sys.executable, *self.program, model, "--port", "0", "--cache", str(cache), *flags]
        self.started_at = time.monotonic()
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, **(environ or {})}
        )
        self.log: list[str] = []
        self._listening = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        assert self._listening.wait(60), self.text
        self.url = next(match[1] for line in self.log if (match := LISTENING.search(line)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self._reader.join(5)
            assert self.process.stderr is not None
            self.process.stderr.close()

    @property
    def text(self) -> str:
        return "".join(self.log)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self, grace_s: float = 40) -> int:
        """SIGTERM, then the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(grace_s)

    def wait_ready(self, timeout_s: float = 100) -> None:
        self.wait_for_status(200, timeout_s)

    def wait_for_status(self, status: int, timeout_s: float = 100) -> None:
        """Until `/readyz` answers with this status."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.text
            if httpx.get(f"{self.url}/readyz").status_code == status:
                return
            time.sleep(0.02)
        raise AssertionError(f"/readyz was not {status} within {timeout_s} s\n{self.text}")

    def wait_for_line(self, text: str, timeout_s: float = 100) -> None:
        """Until it has logged this."""
        deadline = time.monotonic() + timeout_s
        while text not in self.text:
            assert time.monotonic() < deadline, f"{text!r} was not logged within {timeout_s} s\n{self.text}"
            time.sleep(0.02)

    def worker_pid(self) -> int:
        """The engine's process, as the operating system lists it."""
        return self.child_pid(b"lavatube.engine.worker")

    def child_pid(self, word: bytes) -> int:
        """The process that the server started with this word in its command."""
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit() and _is_child(folder, self.process.pid, word):
                return int(folder.name)
        raise AssertionError(f"no process {word!r}\n{self.text}")

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if LISTENING.search(line):
                self._listening.set()
        self._listening.set()


class PureServer(Server):
    """All of it is real but the engine, which writes at its own pace: no torch, so it is there in a second or two."""

    program = (str(Path(__file__).with_name("pure_server.py")),)


class SlowServer(Server):
    """Its engine takes seconds to load even a small model."""

    program = (str(Path(__file__).with_name("slow_server.py")),)


def _is_child(folder: Path, parent: int, word: bytes) -> bool:
    try:
        words = (folder / "cmdline").read_bytes().split(b"\0")
        status = (folder / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False  # it ended while we looked
    return word in words and int(status.rpartition(")")[2].split()[1]) == parent

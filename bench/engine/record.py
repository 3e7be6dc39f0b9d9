"""What a comparison has seen so far, kept in a file after every turn: a run that is cut off goes on in the next."""

from __future__ import annotations

import sys
from pathlib import Path
from subprocess import CalledProcessError

import msgspec

from bench.engine.floors import Floors
from bench.engine.goals import Measured


class Record(msgspec.Struct):
    """`failures` are turns of which there is nothing, or not all."""

    commands: list[str] = []
    floors: Floors = Floors()
    measured: Measured = {}
    failures: list[str] = []

    def add(self, row: str, figure: str, engine: str, value: float) -> None:
        self.measured.setdefault(row, {}).setdefault(figure, {}).setdefault(engine, []).append(value)

    def fail(self, turn: str, error: Exception) -> None:
        if isinstance(error, CalledProcessError):  # a command's words are paths of this machine
            said = f"{Path(error.cmd[0]).name} ended with {error.returncode}"
        else:
            said = str(error).partition("\n")[0]
        message = f"{turn}: {said}"
        print(message, file=sys.stderr)
        self.failures.append(message)

    def succeed(self, turn: str) -> None:
        """What it failed of before is there now."""
        self.failures = [failure for failure in self.failures if not failure.startswith(f"{turn}: ")]

    def write(self, path: Path) -> None:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self)) + b"\n")

    @classmethod
    def read(cls, path: Path) -> Record:
        """Empty where there is none yet."""
        return msgspec.json.decode(path.read_bytes(), type=cls) if path.exists() else cls()

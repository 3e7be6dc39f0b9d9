"""Which kernels can be trusted on this device: tried in a process of their own, whose death costs nobody an answer.

What was found is noted in a folder, for the same kernels, versions, device and shapes of a model; only a start that
finds no note tries anything.
"""

from __future__ import annotations

import hashlib
import logging
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
import torch
from msgspec.structs import replace

from lavatube import __version__
from lavatube.model.fused import Fused
from lavatube.model.trial import Question, Told

logger = logging.getLogger(__name__)

PATIENCE_S: Final = 300.0
"""For one kernel, compilation included; what takes longer hangs."""
START_S: Final = 300.0
"""For the start of the process, until it comes to a kernel."""
_DEATH_S: Final = 10.0  # of a process that was killed; one that the driver holds dies later, or never

Verdicts = dict[str, str]
"""By a kernel's key: why it is not used; empty where it is."""


class _NotTried(Exception):
    """The process came to no kernel."""


def sound_kernels(question: Question, notes: Path | None, patience_s: float = PATIENCE_S) -> list[str]:
    """The keys of those that do what torch does. Of each other one the log says why."""
    note = notes / f"{_digest(question)}.json" if notes else None
    verdicts = _read(note)
    if verdicts is None:
        try:
            verdicts = _try_all(question, patience_s)
        except (OSError, _NotTried) as error:
            logger.warning("no kernel is used, torch does all of it, slower: they can't be tried: %s", error)
            return []
        if note and len(verdicts) == len(question.keys):
            _write(note, verdicts)
    elif any(verdicts.values()):
        logger.info("kernels were tried before; what was found is noted in %s", note)
    for key, why in verdicts.items():
        if why:
            _warn(key, why)
    return [key for key, why in verdicts.items() if not why]


def _try_all(question: Question, patience_s: float) -> Verdicts:
    """Of those for which there was memory. One that ends the process is out, and another process goes on."""
    verdicts: Verdicts = {}
    left = list(question.keys)
    while left:
        for told in _ask(replace(question, keys=list(left)), patience_s):
            left.remove(told.key)
            if told.state == "untried":
                _warn(told.key, told.why)
            else:
                verdicts[told.key] = told.why
    return verdicts


def _ask(question: Question, patience_s: float) -> Iterator[Told]:
    """What a process tells, and what its death says of the kernel that it was at. Raises: _NotTried."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "lavatube.model.trial"],
            stdin=subprocess.PIPE,  # open as long as somebody waits
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        begun, has_told, why = "", False, ""
        try:
            with suppress(BrokenPipeError):  # it has ended; of what, is told below
                process.stdin.write(msgspec.json.encode(question) + b"\n")
                process.stdin.flush()
            for told in _answers(process.stdout.fileno(), patience_s):
                begun, has_told = (told.key, True) if told.state == "begun" else ("", True)
                if told.state != "begun":
                    yield told
            status = process.wait(_DEATH_S)
            why = f"its process ended with {f'signal {-status}' if status < 0 else f'status {status}'}"
        except (TimeoutError, subprocess.TimeoutExpired):
            why = f"its process hung for {patience_s if has_told else START_S:.0f} s"
        finally:
            process.kill()
            process.stdout.close()
            with suppress(OSError):  # what it did not read can't be written any more
                process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_DEATH_S)
        if begun or not has_told:
            why = " ".join(filter(None, (why, _last_line(errors))))
            if not begun:
                raise _NotTried(why)
            yield Told(begun, "differs", why)


def _answers(pipe: int, patience_s: float) -> Iterator[Told]:
    """As they come, until the pipe is closed. Raises: TimeoutError if the first or another does not come in time."""
    poll, rest, limit_s = select.poll(), b"", START_S
    poll.register(pipe, select.POLLIN)
    while True:
        if not poll.poll(1000 * limit_s):
            raise TimeoutError
        data = os.read(pipe, 1 << 16)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            try:
                told = msgspec.json.decode(line, type=Told)
            except msgspec.DecodeError:
                continue  # what is imported as Python starts may print
            limit_s = patience_s
            yield told


def _last_line(errors: BinaryIO) -> str:
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return f"({lines[-1][:500]})" if lines else ""


def _digest(question: Question) -> str:
    """Of all that what is found depends on."""
    device = torch.device(question.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = ""
    module = find_spec(question.module)
    assert module is not None
    assert module.origin is not None
    sources = [source.read_bytes() for source in sorted(Path(module.origin).parent.glob("*.py"))]
    facts = " ".join((__version__, torch.__version__, triton, name)).encode()
    return hashlib.sha256(b"\n".join((msgspec.json.encode(question), facts, *sources))).hexdigest()[:32]


def _warn(key: str, why: str) -> None:
    name = Fused().operations[key].name
    logger.warning("%s: the kernel is not used, torch does it, slower: %s", name, why)


def _read(note: Path | None) -> Verdicts | None:
    try:
        return msgspec.json.decode(note.read_bytes(), type=Verdicts) if note else None
    except (OSError, msgspec.DecodeError):
        return None


def _write(note: Path, verdicts: Verdicts) -> None:
    """A note that can't be written is missed by nobody but the next start."""
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=note.parent, delete=False) as file:
            file.write(msgspec.json.encode(verdicts))
        Path(file.name).replace(note)
    except OSError as error:
        logger.warning("what was found out about kernels can't be noted: %s", error)

"""The engine's process: `python -m lavatube.engine.worker --socket FD`. Commands in, events out, over one socket.

It belongs to the front that holds the other end: when that connection or that process ends, so does this one, at once.
Anything unforeseen ends it too, loudly: a CUDA error sticks to the process, and a new one is a second away.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Final

import msgspec

from lavatube.checkpoint.read import read_spec
from lavatube.engine.frames import Frames, decode_command, frame_events
from lavatube.engine.wire import (
    Abort,
    Command,
    Event,
    Heartbeat,
    Load,
    Loaded,
    LoadFailed,
    Loading,
    Ready,
    RequestEvent,
)
from lavatube.errors import OperatorError
from lavatube.logs import log_to_stderr
from lavatube.weights.progress import Progress, follower

logger = logging.getLogger(__name__)

HEARTBEAT_S: Final = 1.0
LOG_EVERY_S: Final = 2.0
_READ_BYTES: Final = 1 << 20
_PR_SET_PDEATHSIG: Final = 1


class Connection:
    """The socket to the front: any thread sends; what comes is put into `commands`. When it breaks, the process ends.

    It is read by a thread that waits and by the engine between two steps, for that thread may get its turn steps late.
    """

    def __init__(self, descriptor: int) -> None:
        self.commands: SimpleQueue[Command] = SimpleQueue()
        self._socket = socket.socket(fileno=descriptor)
        self._frames = Frames()
        self._read_s = 0.0
        self._send_lock = threading.Lock()
        self._read_lock = threading.Lock()

    def send(self, *events: Event) -> None:
        """All events in one piece."""
        data = frame_events(*events)
        try:
            with self._send_lock:
                self._socket.sendall(data)
        except OSError:
            os._exit(0)

    def listen(self) -> None:
        """For ever; when the front goes away this process ends, whatever its other threads are doing."""
        arrival = select.poll()
        arrival.register(self._socket, select.POLLIN)
        while True:
            arrival.poll()
            self.read()

    def read(self) -> None:
        """What has come; nothing is waited for."""
        try:
            with self._read_lock:
                # Every read leaves the socket empty: what is in it now has come since the last one began.
                since_s, self._read_s = self._read_s, time.monotonic()
                while data := self._socket.recv(_READ_BYTES, socket.MSG_DONTWAIT):
                    for body in self._frames.feed(data):
                        self.commands.put(_come_since(since_s, decode_command(body)))
        except BlockingIOError:
            return
        except (OSError, ValueError, msgspec.DecodeError):
            logger.exception("the front sent something that is no command")
        os._exit(0)


def _come_since(moment_s: float, command: Command) -> Command:
    """An abort counts from when it can have come: a front notes when it sends one, and then may lose its turn."""
    if isinstance(command, Abort):
        return msgspec.structs.replace(command, sent_s=max(command.sent_s, moment_s))
    return command


class Heart:
    """Tells the front once a second that this process lives, and how far the engine is."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.measure: Callable[[], Heartbeat] = lambda: Heartbeat(0, 0, 0, 0)

    def beat(self) -> None:
        """For ever."""
        while True:
            self._connection.send(self.measure())
            time.sleep(HEARTBEAT_S)


def main() -> None:
    # A service manager's SIGTERM reaches the whole service; the front decides.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    arguments = _parse_arguments()
    log_to_stderr(arguments.log_level, arguments.log_format, "engine")
    _die_with_parent()
    connection = Connection(arguments.socket)
    heart = Heart(connection)
    for target in (connection.listen, heart.beat):
        threading.Thread(target=target, daemon=True).start()
    try:
        status = _serve(connection, heart, arguments.threads)
    except Exception:
        logger.exception("the engine died")
        status = 1
    os._exit(status)  # an orderly end would ask a device that may be in an error state


def _serve(connection: Connection, heart: Heart, threads: int) -> int:
    """Import, load, run until told to end; the process's exit status."""
    # Not at the top: this takes seconds, and by now the front knows that we live.
    import torch

    from lavatube.engine.capacity import layer_limit_s
    from lavatube.engine.load import choose_threads, load_core
    from lavatube.engine.loop import run
    from lavatube.engine.timeline import Timeline
    from lavatube.engine.trail import Trail
    from lavatube.weights.arrival import find_arrivals

    order = connection.commands.get()
    if not isinstance(order, Load):
        return 0
    begun_s = time.monotonic()
    trail: Trail | None = None
    send_progress = _progress_sender(connection)
    try:
        spec = read_spec(Path(order.folder))
        torch.set_num_threads(choose_threads(threads, spec))
        if find_arrivals(Path(order.folder)):
            trail = Trail(order, send_progress)
        core = trail.core if trail else load_core(order, send_progress)
    except OperatorError as error:
        return _refuse(connection, error)
    heart.measure = lambda: Heartbeat(
        core.progress + (trail.num_waits if trail else 0),
        core.num_running,
        core.num_waiting,
        core.free_cache_tokens,
        core.caches,
        core.guesses,
        core.gaps,
    )
    load_s = time.monotonic() - begun_s
    layer_s = layer_limit_s(spec, core.device, order.max_step_tokens)
    connection.send(
        Ready(core.device, core.dtype, load_s, core.cache_tokens, core.max_context_tokens, layer_s, trail is not None)
    )
    if trail is not None:
        threading.Thread(target=_watch, args=[connection, trail.wait, begun_s], daemon=True).start()
    timeline = trail.timeline if trail else Timeline(order.trace)

    def emit(events: list[RequestEvent]) -> None:
        timeline.on_events(events)
        connection.send(*events)

    run(core, connection.commands, emit, connection.read)
    return 0


def _watch(connection: Connection, wait: Callable[[], None], begun_s: float) -> None:
    """Tells of the end of a load that goes on beside the engine; a bad one ends this process."""
    try:
        wait()
    except OperatorError as error:
        os._exit(_refuse(connection, error))
    except Exception:
        logger.exception("the engine died while its weights came in")
        os._exit(1)
    connection.send(Loaded(time.monotonic() - begun_s))


def _refuse(connection: Connection, error: OperatorError) -> int:
    """It is for the front to log: it knows whom else to tell."""
    connection.send(LoadFailed(error.code, error.message, error.remedy))
    return 1


def _progress_sender(connection: Connection) -> Callable[[int, int], None]:
    """Passes progress on, a few times a second, and logs it every few seconds."""
    next_log_s = time.monotonic() + LOG_EVERY_S

    def tell(progress: Progress) -> None:
        nonlocal next_log_s
        connection.send(Loading(progress.done_bytes, progress.total_bytes, progress.rate_bytes_s))
        if progress.rate_bytes_s and time.monotonic() >= next_log_s:
            next_log_s = time.monotonic() + LOG_EVERY_S
            logger.info("phase 2: loading %s", progress.extent)

    return follower("loading", tell)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="lavatube.engine.worker", description="The engine's process; the front starts it."
    )
    parser.add_argument("--socket", type=int, required=True, help="descriptor of a socket to the front")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: as suits the model")
    parser.add_argument("--log-level", default="info", help="how much is logged")
    parser.add_argument("--log-format", default="text", help="text or json")
    return parser.parse_args()


def _die_with_parent() -> None:
    """Have the kernel kill us when the front dies, even while we hold the interpreter lock in a long operation."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()

"""The first second of a server: what takes longest sets out before what answers HTTP is even imported."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from importlib import import_module
from typing import Final, NoReturn

from lavatube.begun import Begun
from lavatube.doorman import Doorman
from lavatube.engine.client import EngineClient
from lavatube.engine.process import worker_command
from lavatube.errors import InvalidSetting
from lavatube.heap import give_back_large_blocks
from lavatube.logs import log_to_stderr
from lavatube.provisioning import open_trace
from lavatube.pulling import Pulling
from lavatube.settings import Settings
from lavatube.weights.uri import parse_model

logger = logging.getLogger(__name__)

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


def serve(settings: Settings) -> NoReturn:
    """Serve until SIGTERM or Ctrl-C, then end the process: with 0, or with 1 if set-up or engine had failed for good.

    Raises: InvalidSetting, for what can be known to be wrong before the server listens.
    """
    started_s = time.monotonic()
    give_back_large_blocks()
    log = log_to_stderr(settings.log_level, settings.log_format, "front")
    parse_model(settings.model)
    open_trace(settings.trace).begin()
    listener = _listen(settings.host, settings.port)  # whoever comes before there is an answer waits for it
    asyncio.run(_run(settings, log, listener, started_s))
    raise AssertionError("it has ended the process")


async def _run(settings: Settings, log: logging.Handler, listener: socket.socket, started_s: float) -> NoReturn:
    """Torch takes two seconds to import, the weights come when they come, and what answers takes one second."""
    task = asyncio.current_task()
    assert task is not None
    _on_signal(task.cancel)
    doorman = Doorman(listener)
    engine = EngineClient(worker_command(settings.threads, settings.log_level, settings.log_format))
    engine.launch()
    pulling = Pulling(settings)
    try:
        front = await asyncio.to_thread(import_module, "lavatube.front")  # meanwhile all of them are listened to
        status: int = await front.run(Begun(settings, log, doorman, engine, pulling, started_s))
    except asyncio.CancelledError:
        logger.info("stopped before it had begun to serve")
        status = 0
    finally:
        _on_signal(lambda: None)
        await pulling.close()
        await engine.stop()
    logging.shutdown()
    os._exit(status)  # here: the loop's end would wait for threads, of which one may wait for some picture's host


def _on_signal(act: Callable[[], object]) -> None:
    """Until the server takes signals for itself, the first one acts; those behind it find that under way."""
    loop = asyncio.get_running_loop()

    def act_once() -> None:
        for number in SIGNALS:
            loop.add_signal_handler(number, lambda: None)
        act()

    for number in SIGNALS:
        loop.add_signal_handler(number, act_once)


def _listen(host: str, port: int) -> socket.socket:
    """Raises: InvalidSetting, if the address can't be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise InvalidSetting(
            f"Can't listen on {host}, port {port}: {reason}.", remedy="Choose others with --host and --port."
        ) from error

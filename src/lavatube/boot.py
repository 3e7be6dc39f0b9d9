"""The first second of a server: what takes longest sets out before what answers HTTP is even imported."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from importlib import import_module
from typing import NoReturn

from lavatube.engine.client import EngineClient
from lavatube.engine.process import worker_command
from lavatube.heap import give_back_large_blocks
from lavatube.logs import log_to_stderr
from lavatube.provisioning import open_trace
from lavatube.pulling import Pulling
from lavatube.settings import Settings
from lavatube.weights.uri import parse_model


def serve(settings: Settings) -> NoReturn:
    """Serve until SIGTERM or Ctrl-C, then end the process: with 0, or with 1 if set-up or engine had failed for good.

    Raises: InvalidSetting, for what can be known to be wrong before the server listens.
    """
    started_s = time.monotonic()
    give_back_large_blocks()
    log = log_to_stderr(settings.log_level, settings.log_format, "front")
    parse_model(settings.model)
    open_trace(settings.trace).begin()
    status = asyncio.run(_run(settings, log, started_s))
    logging.shutdown()
    os._exit(status)  # a thread that still waits for some picture's host must not hold the exit


async def _run(settings: Settings, log: logging.Handler, started_s: float) -> int:
    """The engine's process needs two seconds for torch, the weights as long as they take, and the front one second."""
    engine = EngineClient(worker_command(settings.threads, settings.log_level, settings.log_format))
    engine.launch()
    pulling = Pulling(settings)
    try:
        front = await asyncio.to_thread(import_module, "lavatube.front")  # meanwhile both are listened to
        status: int = await front.run(settings, log, engine, pulling, started_s)
        return status
    finally:
        await pulling.close()
        await engine.stop()

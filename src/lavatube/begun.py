"""What a start has begun by the time that there is a front to end it with."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from lavatube.doorman import Doorman
from lavatube.engine.client import EngineClient
from lavatube.pulling import Pulling
from lavatube.settings import Settings


@dataclass(frozen=True, slots=True)
class Begun:
    """The engine's process and the weights are under way, and somebody is at the door.

    `log`: where all that is logged goes. `started_s` is by `time.monotonic`.
    """

    settings: Settings
    log: logging.Handler
    doorman: Doorman
    engine: EngineClient
    pulling: Pulling
    started_s: float

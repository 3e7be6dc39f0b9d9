"""`lavatube serve MODEL`, but that its answers are those of pure_worker.py: a token each PURE_PERIOD_S seconds."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lavatube import cli, front
from lavatube.engine.client import EngineClient

WORKER = Path(__file__).with_name("pure_worker.py")


class PureFront(front.Front):
    def __init__(self, *arguments: object) -> None:
        *others, _ = arguments
        period_s = os.environ.get("PURE_PERIOD_S", "0.005")
        super().__init__(*others, EngineClient([sys.executable, str(WORKER), "--period-s", period_s]))


if __name__ == "__main__":
    front.Front = PureFront
    sys.exit(cli.main(["serve", *sys.argv[1:]]))

"""`lavatube serve MODEL`, but that its answers are those of pure_worker.py: a token each PURE_PERIOD_S seconds."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lavatube import boot, cli

WORKER = Path(__file__).with_name("pure_worker.py")


if __name__ == "__main__":
    period_s = os.environ.get("PURE_PERIOD_S", "0.005")
    boot.worker_command = lambda *_: [sys.executable, str(WORKER), "--period-s", period_s]
    sys.exit(cli.main(["serve", *sys.argv[1:]]))

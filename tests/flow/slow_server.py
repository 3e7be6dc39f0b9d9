"""`lavatube serve MODEL`, but that its engine reads weights as from a slow disk: TENSOR_S seconds for each tensor."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Final

from lavatube import boot, cli

TENSOR_S: Final = 0.02


def run_worker() -> None:
    from lavatube.engine import worker
    from lavatube.weights.tensors import Tensors

    read = Tensors.tensor

    def read_slowly(tensors: Tensors, name: str) -> object:
        time.sleep(TENSOR_S)
        return read(tensors, name)

    Tensors.tensor = read_slowly
    worker.main()


if __name__ == "__main__":
    if "--socket" in sys.argv:
        run_worker()
    else:
        boot.worker_command = lambda *_: [sys.executable, str(Path(__file__))]
        sys.exit(cli.main(["serve", *sys.argv[1:]]))

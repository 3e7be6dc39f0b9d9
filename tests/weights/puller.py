"""A program that provisions one model and says how it went: what tests start to kill, to race and to watch.

    python -m tests.weights.puller URI CACHE LOCK_WAIT_S [--watch-writes] [--stage]

Prints one JSON object. `--watch-writes` lists every call that could change the cache; with `--stage` a line before that
object names the folder that is shown early.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path

from lavatube.errors import OperatorError
from lavatube.weights.options import Provisioned, ProvisionOptions
from lavatube.weights.provision import provision
from tests.weights.conftest import POLICY

WRITING_EVENTS = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.truncate"}


def watch_writes(writes: list[str]) -> None:
    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in WRITING_EVENTS:
            writes.append(f"{event} {arguments}")
        elif event == "open" and isinstance(arguments[2], int):
            is_writing = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if is_writing:
                writes.append(f"open {arguments[0]}")

    sys.addaudithook(hook)


def say_staged(staged: Provisioned) -> None:
    print(staged.folder, flush=True)


def main() -> None:
    uri, cache, lock_wait_s, *flags = sys.argv[1:]
    policy = dataclasses.replace(POLICY, lock_wait_s=float(lock_wait_s))
    writes: list[str] = []
    if "--watch-writes" in flags:
        watch_writes(writes)
    try:
        on_staged = say_staged if "--stage" in flags else None
        provisioned = provision(uri, ProvisionOptions(Path(cache), policy=policy, on_staged=on_staged), lambda _: None)
    except OperatorError as error:
        print(json.dumps({"code": error.code, "message": error.message}))
        return
    answer = {
        "folder": str(provisioned.folder),
        "from_cache": provisioned.from_cache,
        "writes": [write for write in writes if cache in write],
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()

"""Phase 1 of a server: `lavatube pull MODEL --json` as a child process; progress and the result from its JSON lines."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lavatube.errors import SourceUnavailable, from_code
from lavatube.settings import Settings, environment_of
from lavatube.weights.progress import Progress
from lavatube.weights.provision import Provisioned


async def pull(
    settings: Settings, on_progress: Callable[[Progress], None], on_staged: Callable[[Provisioned], None]
) -> Provisioned:
    """Provision the model of these settings. They travel in the environment, since MODEL may be a signed URL.

    `on_staged` is told of a folder in which the engine can begin already, where there is one; it is the caller's to
    remove. Cancelling ends the child; what it has fetched stays for the next time.

    Raises: OperatorError, as the child said it.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "lavatube.cli", "pull", "--json", "--stage"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        env=environment_of(settings),
    )
    assert process.stdout is not None
    last: dict[str, Any] = {}
    try:
        async for line in process.stdout:
            last = json.loads(line)
            if "done_bytes" in last:
                on_progress(Progress(**last))
            elif "staged" in last:
                on_staged(_provisioned(last["staged"]))
        status = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()  # it may be killed at any instant: that is what its cache is made for
            await process.wait()
    return _result(last, status)


def _result(last: dict[str, Any], status: int) -> Provisioned:
    match last:
        case {"error": {"code": str(code), "message": str(message), "remedy": str(remedy)}}:
            raise from_code(code, message, remedy=remedy)
        case {"folder": str()} if status == 0:
            return _provisioned(last)
        case _:
            raise SourceUnavailable(f"Provisioning ended with status {status} and no result.", remedy="See the log.")


def _provisioned(said: dict[str, Any]) -> Provisioned:
    return Provisioned(**{**said, "folder": Path(said["folder"])})

"""Phase 1 of a server: `lavatube pull MODEL --json` as a child process; progress and the result from its JSON lines."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from lavatube.errors import SourceUnavailable, from_code
from lavatube.settings import Settings, environment_of
from lavatube.weights.progress import Progress
from lavatube.weights.provision import Provisioned
from lavatube.weights.staged import StagedFolder, claim

logger = logging.getLogger(__name__)

LOG_EVERY_S: Final = 2.0


class Pulling:
    """A pull that is under way from now on, on the running loop; what it says is kept for those who come later."""

    def __init__(self, settings: Settings) -> None:
        self.progress = Progress("resolving")
        self.staged: asyncio.Future[Provisioned] = asyncio.get_running_loop().create_future()
        """A folder in which the engine can begin meanwhile; there may never be one. It is held until `close`."""
        self.provisioned = asyncio.create_task(pull(settings, self._on_progress, self._on_staged))
        """Raises: OperatorError."""
        self._folder: StagedFolder | None = None
        self._next_log_s = time.monotonic() + LOG_EVERY_S

    async def close(self) -> None:
        """Ends what is under way."""
        self.provisioned.cancel()
        await asyncio.wait({self.provisioned})
        if not self.provisioned.cancelled():
            self.provisioned.exception()  # seen: whoever waited for it has it
        folder, self._folder = self._folder, None
        if folder is not None:
            await asyncio.to_thread(folder.remove)
            folder.close()

    def _on_progress(self, progress: Progress) -> None:
        """Kept for the health routes, and logged every few seconds."""
        self.progress = progress
        if time.monotonic() < self._next_log_s or not progress.total_bytes:
            return
        self._next_log_s = time.monotonic() + LOG_EVERY_S
        logger.info("phase 1: %s %s", progress.phase, progress.extent)

    def _on_staged(self, shown: Provisioned) -> None:
        if self._folder is None and (folder := claim(shown.folder)) is not None:
            self._folder = folder
            self.staged.set_result(shown)


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
        start_new_session=True,  # Ctrl-C is for the server, which then ends this
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

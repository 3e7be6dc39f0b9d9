"""Phases 1 and 2 of a server: the weights arrive, the engine loads them, predictions are taken. Told as it goes."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from lavatube import assembly
from lavatube.begun import Begun
from lavatube.engine.wire import Load, Loaded, Ready
from lavatube.errors import InternalError, LavatubeError
from lavatube.predictions.service import PredictionService
from lavatube.prompt.prepare import Preparer
from lavatube.serve.serving import Serving
from lavatube.settings import MIB
from lavatube.weights.in_use import RENEW_S, HeldSets
from lavatube.weights.progress import Progress
from lavatube.weights.provision import Provisioned

logger = logging.getLogger(__name__)

MAX_LINES: Final = 200

MakeService = Callable[[Preparer, Provisioned], PredictionService]


class Setup:
    """One for the life of the front. What fails here is kept in `failure`, and the server stays up to tell it."""

    def __init__(self, begun: Begun, serving: Serving, make_service: MakeService, stopping: asyncio.Event) -> None:
        """What fails once `stopping` is set does so because the server ends."""
        self.provisioned: Provisioned | None = None
        self.preparer: Preparer | None = None
        self.failure: LavatubeError | None = None
        self.started_s = begun.started_s
        self.started_at = datetime.now(UTC) - timedelta(seconds=time.monotonic() - begun.started_s)
        self.ready_at: datetime | None = None
        self.lines: list[str] = []
        self._settings = begun.settings
        self._engine = begun.engine
        self._pulling = begun.pulling
        self._serving = serving
        self._make_service = make_service
        self._stopping = stopping
        self._held: HeldSets | None = None  # that the engine loads, and loads again when it was restarted

    @property
    def progress(self) -> Progress:
        """Phase 1's."""
        return self._pulling.progress

    async def run(self, url: str) -> None:
        """`url` is where the server can be asked."""
        try:
            await self._provision()
            ready = await self._engine.wait_ready()
            loaded = await self._engine.wait_loaded()
            self.ready_at = datetime.now(UTC)
            gc.freeze()  # what is here by now stays: no stream need wait while it is searched for garbage
            self._note(f"phase 2: {_describe_engine(ready, loaded)}")
            elapsed_s, name = time.monotonic() - self.started_s, self._settings.served_name
            self._note(f"ready after {elapsed_s:.1f} s: {name} at {url}, for browsers at /playground")
        except LavatubeError as error:
            self._fail(error)
        except Exception:
            logger.exception("a defect in the set-up")
            self._fail(InternalError("The set-up broke.", remedy="The server's log says how."))

    async def _provision(self) -> None:
        """Phase 1. The engine begins as soon as there is a folder to begin in, if need be before the weights are here.

        Raises: LavatubeError.
        """
        pulling = self._pulling
        try:
            await asyncio.wait({pulling.provisioned, pulling.staged}, return_when=asyncio.FIRST_COMPLETED)
            if pulling.staged.done():
                await self._open(pulling.staged.result())
            self.provisioned = provisioned = await pulling.provisioned
            self._held = await asyncio.to_thread(HeldSets, provisioned.folder)
            self._note(f"phase 1: {_describe(provisioned)}")
            load = await self._open(provisioned)
            if pulling.staged.done():
                self._engine.reorder(load)
                await self._engine.wait_loaded()
        finally:
            await pulling.close()

    async def _open(self, provisioned: Provisioned) -> Load:
        """Have the engine load from a folder, and take predictions; a second time only say what it would load."""
        if self.preparer is None:
            spec = await asyncio.to_thread(assembly.read_served_spec, provisioned.folder, self._settings)
            self.preparer = await asyncio.to_thread(assembly.make_preparer, spec, provisioned.folder, self._settings)
        self._serving.weights = provisioned.set_digest
        load = assembly.load_command(provisioned, self.preparer, self._settings)
        if self._serving.service is None:
            await self._engine.start(load)
            ready = await self._engine.wait_ready()
            self.preparer.limit_context(ready.max_context_tokens)
            self._serving.open(self._make_service(self.preparer, provisioned))
        return load

    async def keep_in_use(self) -> None:
        """Say of the weights, now and then, that they are served."""
        while True:
            await asyncio.sleep(RENEW_S)
            if self._held is not None:
                await asyncio.to_thread(self._held.renew)

    def close(self) -> None:
        """After the engine: from now on its weights may be removed."""
        if self._held is not None:
            self._held.close()

    def _fail(self, error: LavatubeError) -> None:
        if self._stopping.is_set():
            return
        self.failure = error
        self._engine.give_up(error)
        self._serving.wake()
        self._note(f"set-up failed ({error.code}): {error.sentence}", logging.ERROR)
        logger.info("the server stays up to say so; end it with Ctrl-C or SIGTERM")

    def _note(self, line: str, level: int = logging.INFO) -> None:
        """One line of the set-up's log, for the terminal and for `/health-check`."""
        logger.log(level, "%s", line)
        if len(self.lines) < MAX_LINES:
            self.lines.append(line)


def _describe(provisioned: Provisioned) -> str:
    is_in_place = provisioned.source == provisioned.folder.absolute().as_uri()
    where = "in place" if is_in_place else "from the cache" if provisioned.from_cache else "fetched"
    return f"{provisioned.total_bytes / MIB:.1f} MiB {where}, trust: {provisioned.trust}"


def _describe_engine(ready: Ready, loaded: Loaded) -> str:
    return (
        f"loaded on {ready.device} as {ready.dtype} in {loaded.load_s:.1f} s, cache of {ready.kv_cache_tokens:,} tokens"
    )

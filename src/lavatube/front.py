"""A server as a straight line: listen, provision, load, serve, drain. It alone knows all other modules."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

import msgspec
from sqlalchemy import Engine

from lavatube.begun import Begun
from lavatube.doorman import Doorman
from lavatube.engine.supervisor import EngineState
from lavatube.predictions.database import open_database
from lavatube.predictions.keys import KeyStore
from lavatube.predictions.limits import ServiceLimits
from lavatube.predictions.owners import OwnerLimits
from lavatube.predictions.postman import Postman
from lavatube.predictions.service import PredictionService
from lavatube.prompt.fetch import UrlGate
from lavatube.prompt.prepare import Preparer
from lavatube.serve.app import build_app
from lavatube.serve.auth import Keyring
from lavatube.serve.boundary import RequestId
from lavatube.serve.exposure import check_exposure, tell_who_may_call
from lavatube.serve.health import HealthView, Phase
from lavatube.serve.metrics import EngineCounts, Metrics
from lavatube.serve.origins import Origins
from lavatube.serve.serving import Serving
from lavatube.serve.transport import build_server
from lavatube.settings import Settings
from lavatube.setup import Setup
from lavatube.stores import Stores
from lavatube.weights.progress import Progress
from lavatube.weights.provision import Provisioned

logger = logging.getLogger(__name__)

FAILURE_CHECK_S: Final = 0.5


async def run(begun: Begun) -> int:
    """Serve until the end, with what is on its way; the exit status. Raises: InvalidSetting."""
    settings = begun.settings
    begun.log.addFilter(RequestId())
    # Its start and stop are ours to tell, and so is what could not be parsed: it warns of each such connection.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    UrlGate(settings.image_urls)
    Postman(settings.webhook_urls)
    Origins(settings.allowed_origins)
    # On a thread: a database may keep one waiting.
    database = await asyncio.to_thread(open_database, settings.database_url) if settings.database_url else None
    keyring = await asyncio.to_thread(_keyring, settings, database)
    check_exposure(keyring, settings)
    return await Front(begun, keyring, database).run(begun.doorman)


def _keyring(settings: Settings, database: Engine | None) -> Keyring:
    """The operator's key and those of the database."""
    defaults = OwnerLimits(settings.key_streams, settings.key_requests_per_minute, settings.key_tokens_per_minute)
    keyring = Keyring(settings.api_key, None if database is None else KeyStore(database).all, defaults)
    keyring.refresh()
    return keyring


class Front:
    """The process that answers HTTP, from its first second to its last; it holds no model."""

    def __init__(self, begun: Begun, keyring: Keyring, database: Engine | None) -> None:
        self._settings = settings = begun.settings
        self._stores = None if database is None else Stores(database, settings)
        self._engine = begun.engine
        max_queued = settings.max_queue if settings.queue_while_starting else 0
        self._serving = Serving(health=self.health, shutdown=self._stop, max_queued=max_queued)
        self._metrics = Metrics(self._serving, self._engine_counts)
        self._keyring = keyring
        self._stopping = asyncio.Event()
        self._setup = Setup(begun, self._serving, self._make_service, self._stopping)
        self._hurrying = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def run(self, doorman: Doorman) -> int:
        """Answer at once, first those who wait at the door; set up meanwhile, and leave in order."""
        kept = None if self._stores is None else self._stores.kept
        app = build_app(self._serving, self._settings, self._keyring, self._metrics, kept)
        host, port = doorman.listener.getsockname()[:2]
        server = build_server(app, host=host, port=port, on_signal=self._on_signal)
        guests = doorman.leave()
        serving = asyncio.create_task(server.serve([doorman.listener]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.005)
        if server.started:
            await server.take(guests)
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        logger.info("listening on %s", url)
        tell_who_may_call(self._keyring, self._settings)
        chores = self._keyring.keep_fresh(), self._watch_for_failure(), self._setup.keep_in_use()
        background = [asyncio.create_task(chore) for chore in chores]
        if self._stores is not None:
            self._stores.webhooks.start()
        setup = asyncio.create_task(self._setup.run(url))
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        has_failed = self._has_failed
        for task in background:
            task.cancel()
        await self._drain(setup)
        if self._stores is not None:
            await self._stores.close()
        server.should_exit = True
        await serving
        await self._engine.stop()
        self._setup.close()
        if self._setup.preparer is not None:
            await asyncio.to_thread(self._setup.preparer.close)
        logger.info("stopped")
        return 1 if has_failed else 0

    def health(self) -> HealthView:
        """The state of the server at this moment."""
        setup, ready = self._setup, self._engine.ready
        phase = self._phase()
        progress = self._loading() if phase is Phase.LOADING else setup.progress
        return HealthView(
            phase=phase,
            model=self._settings.served_name,
            started_at=setup.started_at,
            elapsed_s=time.monotonic() - setup.started_s,
            ready_at=setup.ready_at,
            step=setup.progress.phase if phase is Phase.PROVISIONING else "",
            device=ready.device if ready else "",
            done_bytes=progress.done_bytes,
            total_bytes=progress.total_bytes,
            rate_bytes_s=progress.rate_bytes_s,
            failure=setup.failure or self._engine.failure,
            logs=tuple(setup.lines),
        )

    def _loading(self) -> Progress:
        """How far the engine is; nothing before it has said so."""
        told = self._engine.loading
        return (
            Progress("loading", told.done_bytes, told.total_bytes, told.rate_bytes_s) if told else Progress("loading")
        )

    @property
    def _has_failed(self) -> bool:
        """For good: neither of them is tried again."""
        return self._setup.failure is not None or self._engine.state is EngineState.FAILED

    async def _watch_for_failure(self) -> None:
        """Ends the server that can't get well again, if it is to end by itself."""
        while self._settings.exit_on_failure:
            await asyncio.sleep(FAILURE_CHECK_S)
            if self._has_failed:
                self._stop()

    def _engine_counts(self) -> EngineCounts:
        beat, ready = self._engine.heartbeat, self._engine.ready
        return EngineCounts(
            num_restarts=self._engine.num_restarts,
            late_tokens=self._engine.late_tokens,
            running=beat.running if beat else 0,
            waiting=beat.waiting if beat else 0,
            free_cache_tokens=beat.free_cache_tokens if beat else 0,
            cache_tokens=ready.kv_cache_tokens if ready else 0,
            **(msgspec.structs.asdict(beat.caches) if beat else {}),
            guessed_tokens=beat.guesses.made if beat else 0,
            rightly_guessed_tokens=beat.guesses.right if beat else 0,
            gap_counts=beat.gaps.counts if beat else [],
            gap_sum_s=beat.gaps.sum_s if beat else 0.0,
        )

    def _phase(self) -> Phase:
        if self._stopping.is_set():
            return Phase.DRAINING
        if self._setup.failure is not None:
            return Phase.FAILED
        if self._setup.provisioned is None:
            return Phase.PROVISIONING
        match self._engine.state:
            case EngineState.READY if self._serving.service is not None and self._engine.loaded is not None:
                return Phase.READY
            case EngineState.FAILED | EngineState.STOPPED:
                return Phase.FAILED
            case _:
                return Phase.RESTARTING if self._engine.failure is not None else Phase.LOADING

    def _make_service(self, preparer: Preparer, provisioned: Provisioned) -> PredictionService:
        scribe = None if self._stores is None else self._stores.open_journal(provisioned)
        service = PredictionService(
            preparer, self._engine, _service_limits(self._settings), self._keyring.limits_of, scribe
        )
        service.observers.append(self._metrics)
        if self._stores is not None:
            service.observers.append(self._stores.webhooks)
            self._stores.keep(service)
        return service

    async def _drain(self, setup: asyncio.Task[None]) -> None:
        self._stopping.set()
        self._serving.wake()
        setup.cancel()
        await asyncio.wait({setup})
        if (service := self._serving.service) is None:
            return
        logger.info("stopping: %d predictions still run", service.num_active)
        drain = asyncio.create_task(service.drain(self._settings.shutdown_grace_s))
        hurry = asyncio.create_task(self._hurrying.wait())
        await asyncio.wait({drain, hurry}, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not drain.done():
            drain.cancel()
            await asyncio.wait({drain})
            await service.drain(0)

    def _stop(self) -> None:
        self._stopping.set()

    def _on_signal(self) -> None:
        """The first one begins the end, the second one means now. The loop may be asleep when a signal comes."""
        self._loop.call_soon_threadsafe(self._hurrying.set if self._stopping.is_set() else self._stopping.set)


def _service_limits(settings: Settings) -> ServiceLimits:
    return ServiceLimits(
        max_running=settings.max_sequences,
        max_waiting=settings.max_queue,
        timeout_s=settings.request_timeout_s,
        is_sharing_caches=settings.share_caches,
        is_going_on=settings.on_restart == "continue",
        max_deaths=settings.max_server_deaths,
    )

"""Start-up and the end as a straight line: listen, provision, load, serve, drain. It alone knows all other modules."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import time
from datetime import UTC, datetime
from typing import Final, NoReturn

from lavatube import assembly
from lavatube.engine.client import EngineClient
from lavatube.engine.supervisor import EngineState
from lavatube.engine.wire import Ready
from lavatube.errors import InternalError, InvalidSetting, LavatubeError
from lavatube.predictions.service import PredictionService, ServiceLimits
from lavatube.prompt.fetch import UrlGate
from lavatube.prompt.prepare import Preparer
from lavatube.pulling import pull
from lavatube.serve.app import build_app
from lavatube.serve.health import HealthView, Phase
from lavatube.serve.serving import Serving
from lavatube.serve.transport import BACKLOG, build_server
from lavatube.settings import MIB, Settings
from lavatube.weights.progress import Progress
from lavatube.weights.provision import Provisioned
from lavatube.weights.uri import parse_model

logger = logging.getLogger(__name__)

LOG_EVERY_S: Final = 2.0
MAX_SETUP_LINES: Final = 200


def serve(settings: Settings) -> NoReturn:
    """Serve until SIGTERM or Ctrl-C, then end the process: with 0, or with 1 if the set-up had failed.

    Raises: InvalidSetting, for what can be known to be wrong before anything has started.
    """
    logging.basicConfig(
        stream=sys.stderr, level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s"
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # its start and stop are ours to tell
    parse_model(settings.model)
    UrlGate(settings.image_urls)
    status = asyncio.run(_run(settings))
    logging.shutdown()
    os._exit(status)  # a thread that still waits for some picture's host must not hold the exit


async def _run(settings: Settings) -> int:
    return await Front(settings).run()


class Front:
    """The process that answers HTTP, from its first second to its last; it holds no model."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._engine = EngineClient(threads=settings.threads)
        self._serving = Serving(health=self.health, shutdown=self._stop)
        self._started_at = datetime.now(UTC)
        self._started = time.monotonic()
        self._ready_at: datetime | None = None
        self._progress = Progress("resolving")
        self._provisioned: Provisioned | None = None
        self._failure: LavatubeError | None = None
        self._preparer: Preparer | None = None
        self._setup_lines: list[str] = []
        self._url = ""
        self._next_log_s = self._started + LOG_EVERY_S
        self._stopping = asyncio.Event()
        self._hurrying = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def run(self) -> int:
        """Listen at once, set up meanwhile, and leave in order."""
        listener = _listen(self._settings.host, self._settings.port)
        app = build_app(self._serving, self._settings)
        host, port = listener.getsockname()[:2]
        server = build_server(app, host=host, port=port, on_signal=self._on_signal)
        serving = asyncio.create_task(server.serve([listener]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.005)
        self._url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        logger.info("listening on %s", self._url)
        setup = asyncio.create_task(self._set_up())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        await self._drain(setup)
        server.should_exit = True
        await serving
        await self._engine.stop()
        if self._preparer is not None:
            await asyncio.to_thread(self._preparer.close)
        logger.info("stopped")
        return 0 if self._failure is None else 1

    def health(self) -> HealthView:
        """The state of the server at this moment."""
        loading = self._engine.loading
        ready = self._engine.ready
        phase = self._phase()
        is_loading = phase is Phase.LOADING and loading is not None
        return HealthView(
            phase=phase,
            model=self._settings.served_name,
            started_at=self._started_at,
            elapsed_s=time.monotonic() - self._started,
            ready_at=self._ready_at,
            device=ready.device if ready else "",
            done_bytes=loading.done_bytes if is_loading and loading else self._progress.done_bytes,
            total_bytes=loading.total_bytes if is_loading and loading else self._progress.total_bytes,
            rate_bytes_s=0.0 if is_loading else self._progress.rate_bytes_s,
            failure=self._failure or self._engine.failure,
            logs=tuple(self._setup_lines),
        )

    def _phase(self) -> Phase:
        if self._stopping.is_set():
            return Phase.DRAINING
        if self._failure is not None:
            return Phase.FAILED
        if self._provisioned is None:
            return Phase.PROVISIONING
        match self._engine.state:
            case EngineState.READY if self._serving.service is not None:
                return Phase.READY
            case EngineState.FAILED | EngineState.STOPPED:
                return Phase.FAILED
            case _:
                return Phase.RESTARTING if self._engine.failure is not None else Phase.LOADING

    def _on_progress(self, progress: Progress) -> None:
        """Phase 1's progress: kept for the health routes, and logged every few seconds."""
        self._progress = progress
        if time.monotonic() < self._next_log_s or not progress.total_bytes:
            return
        self._next_log_s = time.monotonic() + LOG_EVERY_S
        eta_s = self.health().eta_s
        logger.info(
            "phase 1: %s %.0f of %.0f MiB, %.1f MiB/s%s",
            progress.phase,
            progress.done_bytes / MIB,
            progress.total_bytes / MIB,
            progress.rate_bytes_s / MIB,
            "" if eta_s is None else f", {eta_s:.0f} s left",
        )

    async def _set_up(self) -> None:
        """Phases 1 and 2. What fails here is told by the health routes; the server stays up so that it can be."""
        try:
            self._engine.launch()  # it imports torch while the weights arrive
            provisioned = await pull(self._settings, self._on_progress)
            self._note(f"phase 1: {_describe(provisioned)}")
            spec = await asyncio.to_thread(assembly.read_served_spec, provisioned.folder, self._settings)
            self._preparer = await asyncio.to_thread(assembly.make_preparer, spec, provisioned.folder, self._settings)
            self._provisioned = provisioned
            load = assembly.load_command(provisioned.folder, self._preparer, self._settings)
            await self._engine.start(load)
            ready = await self._engine.wait_ready()
            self._preparer.limit_context(ready.max_context_tokens)
            self._serving.service = PredictionService(self._preparer, self._engine, _service_limits(self._settings))
            self._ready_at = datetime.now(UTC)
            self._note(f"phase 2: {_describe_engine(ready)}")
            elapsed_s = time.monotonic() - self._started
            self._note(f"ready after {elapsed_s:.1f} s: {self._settings.served_name} at {self._url}")
        except LavatubeError as error:
            self._fail(error)
        except Exception:
            logger.exception("a defect in the set-up")
            self._fail(InternalError("The set-up broke.", remedy="The server's log says how."))

    def _fail(self, error: LavatubeError) -> None:
        if self._stopping.is_set():
            return
        self._failure = error
        self._note(f"set-up failed ({error.code}): {error.sentence}", logging.ERROR)
        logger.info("the server stays up to say so; end it with Ctrl-C or SIGTERM")

    def _note(self, line: str, level: int = logging.INFO) -> None:
        """One line of the set-up's log, for the terminal and for `/health-check`."""
        logger.log(level, "%s", line)
        if len(self._setup_lines) < MAX_SETUP_LINES:
            self._setup_lines.append(line)

    async def _drain(self, setup: asyncio.Task[None]) -> None:
        self._stopping.set()
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


def _listen(host: str, port: int) -> socket.socket:
    """Raises: InvalidSetting, if the address can't be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise InvalidSetting(
            f"Can't listen on {host}, port {port}: {reason}.", remedy="Choose others with --host and --port."
        ) from error


def _service_limits(settings: Settings) -> ServiceLimits:
    return ServiceLimits(
        max_running=settings.max_sequences,
        max_waiting=settings.max_queue,
        timeout_s=settings.request_timeout_s,
        is_sharing_caches=settings.share_caches,
    )


def _describe(provisioned: Provisioned) -> str:
    where = "from the cache" if provisioned.from_cache else "fetched"
    return f"{provisioned.total_bytes / MIB:.1f} MiB {where}, trust: {provisioned.trust}"


def _describe_engine(ready: Ready) -> str:
    return (
        f"loaded on {ready.device} as {ready.dtype} in {ready.load_s:.1f} s, cache of {ready.kv_cache_tokens:,} tokens"
    )

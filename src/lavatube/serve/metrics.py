"""`/metrics`: what the server did and does, as Prometheus reads it. An observer of predictions; knows no engine.

Labels come from short lists (routes as they are declared, origins, states, codes of errors.py), never from a request:
whatever clients send, there are only so many series.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lavatube.engine.wire import GAP_LIMITS_S
from lavatube.predictions.prediction import Prediction
from lavatube.serve.auth import check_operator
from lavatube.serve.health import HealthView, Phase
from lavatube.serve.serving import Serving
from lavatube.serve.tally import Tally, histogram

FIRST_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
WHOLE_S: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
LATE_TOKENS: Final = (0, 1, 2, 4, 8, 16)


@dataclass(frozen=True, slots=True)
class EngineCounts:
    """What the engine's client knows at one moment; `late_tokens`: answers by tokens computed after their abort."""

    num_restarts: int = 0
    late_tokens: Mapping[int, int] = field(default_factory=dict)
    running: int = 0
    waiting: int = 0
    free_cache_tokens: int = 0
    cache_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    image_hits: int = 0
    image_disk_hits: int = 0
    image_misses: int = 0
    guessed_tokens: int = 0
    rightly_guessed_tokens: int = 0
    gap_counts: Sequence[int] = ()
    gap_sum_s: float = 0.0


class Metrics:
    """An observer of the service, and the route that tells what it saw."""

    def __init__(self, serving: Serving, engine: Callable[[], EngineCounts] = EngineCounts) -> None:
        self._serving = serving
        self._engine = engine
        self._last_output: dict[Prediction, float] = {}
        self.registry = CollectorRegistry()
        ProcessCollector(namespace="lavatube_front", registry=self.registry)
        self.requests = self._counter("http_requests", "HTTP requests", "route", "method", "status")
        self.refusals = self._counter("refusals", "requests refused with an error", "code")
        self.predictions = self._counter("predictions", "predictions that have ended", "origin", "status", "code")
        self.tokens = self._counter("tokens", "tokens of predictions that have ended", "kind")
        self.queue_s = self._histogram("queue_seconds", "from the request to the engine", FIRST_S)
        self.first_s = self._histogram("time_to_first_token_seconds", "from the request to the first text", FIRST_S)
        self._between_s = Tally(GAP_LIMITS_S)
        self.whole_s = self._histogram("prediction_seconds", "from the request to the end", WHOLE_S)
        self.registry.register(self)

    def route(self) -> Route:
        return Route("/metrics", self.show, methods=["GET"])

    async def show(self, request: Request) -> Response:
        """For whoever may ask about the whole server."""
        check_operator(request)
        return Response(generate_latest(self.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def answered(self, route: str, method: str, status: int, code: str) -> None:
        """One request is over. `route` is the path as declared, `code` that of the error or nothing."""
        self.requests.labels(route, method, status or "none").inc()
        if code:
            self.refusals.labels(code).inc()

    def created(self, prediction: Prediction) -> None:
        """Counted when it ends."""

    def started(self, prediction: Prediction) -> None:
        self.queue_s.observe(time.monotonic() - prediction.created)

    def written(self, prediction: Prediction) -> None:
        """Some text of it is there."""
        now = time.monotonic()
        before = self._last_output.get(prediction)
        if before is None:
            self.first_s.observe(now - prediction.created)
        else:
            self._between_s.observe(now - before)
        self._last_output[prediction] = now

    def ended(self, prediction: Prediction) -> None:
        self._last_output.pop(prediction, None)
        code = "" if prediction.error is None else prediction.error.code
        self.predictions.labels(prediction.origin, prediction.status, code).inc()
        self.tokens.labels("prompt").inc(prediction.usage.prompt_tokens - prediction.usage.image_tokens)
        self.tokens.labels("image").inc(prediction.usage.image_tokens)
        self.tokens.labels("completion").inc(prediction.usage.completion_tokens)
        self.whole_s.observe(time.monotonic() - prediction.created)

    def released(self, prediction: Prediction) -> None:
        """It is counted where it ends."""
        self._last_output.pop(prediction, None)

    def collect(self) -> Iterable[Metric]:
        """What is read at the moment of the scrape."""
        view, service, engine = self._serving.health(), self._serving.service, self._engine()
        yield _gauge("ready", "1 if predictions are taken", view.is_ready)
        yield _phase(view)
        yield _gauge("phase_bytes_done", "bytes of the phase that are there", view.done_bytes)
        yield _gauge("phase_bytes_total", "bytes of the phase in all", view.total_bytes)
        yield _gauge("phase_bytes_per_second", "how fast they come", view.rate_bytes_s)
        yield _gauge("active_predictions", "predictions that have not ended", service.num_active if service else 0)
        yield _gauge("waiting_predictions", "of them, more than run at once", service.num_waiting if service else 0)
        yield _gauge("journal_failing", "1 while the database can't be written", service.is_failing if service else 0)
        yield _gauge("engine_running", "answers that the engine writes, as of its last heartbeat", engine.running)
        yield _gauge("engine_waiting", "answers that wait in the engine", engine.waiting)
        yield _gauge("engine_cache_tokens", "tokens that the cache holds", engine.cache_tokens)
        yield _gauge("engine_cache_tokens_free", "of them, free ones", engine.free_cache_tokens)
        yield _counted("engine_restarts", "times the engine was started again", engine.num_restarts)
        yield _counted("engine_prompt_tokens", "tokens of prompts that this engine began", engine.prompt_tokens)
        yield _counted("engine_cached_tokens", "of them, found in the cache", engine.cached_tokens)
        yield _counted("engine_image_hits", "pictures that this engine found encoded", engine.image_hits)
        yield _counted("engine_image_disk_hits", "of them, on disk", engine.image_disk_hits)
        yield _counted("engine_image_misses", "pictures that it encoded", engine.image_misses)
        yield _counted("engine_guessed_tokens", "tokens that this engine guessed ahead", engine.guessed_tokens)
        yield _counted("engine_guessed_tokens_right", "of them, right ones", engine.rightly_guessed_tokens)
        yield _gaps(engine.gap_counts, engine.gap_sum_s)
        yield _late_tokens(engine.late_tokens)
        yield self._between_s.family("lavatube_inter_token_seconds", "between pieces of text of one answer")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"lavatube_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"lavatube_{name}", text, buckets=buckets, registry=self.registry)


def _counted(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"lavatube_{name}", text, value=value)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"lavatube_{name}", text, value=float(value))


def _phase(view: HealthView) -> GaugeMetricFamily:
    family = GaugeMetricFamily("lavatube_phase", "1 for the phase that the server is in", labels=["phase"])
    for phase in Phase:
        family.add_metric([phase], float(phase is view.phase))
    return family


def _gaps(counts: Sequence[int], sum_s: float) -> HistogramMetricFamily:
    """`counts` by the classes of GAP_LIMITS_S; none before the first heartbeat."""
    name, text = "lavatube_engine_inter_token_seconds", "between two tokens of one answer, in the engine"
    return histogram(name, text, GAP_LIMITS_S, counts or [0] * (len(GAP_LIMITS_S) + 1), sum_s)


def _late_tokens(counts: Mapping[int, int]) -> HistogramMetricFamily:
    total = sum(counts.values())
    buckets = [
        (str(float(limit)), float(sum(count for late, count in counts.items() if late <= limit)))
        for limit in LATE_TOKENS
    ]
    return HistogramMetricFamily(
        "lavatube_engine_tokens_after_abort",
        "tokens computed for an answer after the engine could know that it was to stop",
        buckets=[*buckets, ("+Inf", float(total))],
        sum_value=float(sum(late * count for late, count in counts.items())),
    )

"""Phase 2 while phase 1 still runs: an engine that takes requests, and weights that come into its model meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from queue import SimpleQueue

from lavatube.engine.load import LoadPlan, make_core, plan_load
from lavatube.engine.timeline import Timeline
from lavatube.engine.wire import Load
from lavatube.errors import OperatorError
from lavatube.model.gate import Gate
from lavatube.model.llava import Llava
from lavatube.weights.arrival import Arrival, find_arrivals


class Trail:
    """One load that follows a fetch. `core` computes as far as weights are there; nothing leaves it before all of them
    are verified, and then `wait` returns.
    """

    def __init__(self, order: Load, on_progress: Callable[[int, int], None]) -> None:
        """Returns when the shapes are known. `on_progress` is called on a thread of its own.

        Raises: OperatorError.
        """
        plan = plan_load(order)
        self._arrivals = find_arrivals(plan.folder)
        self.timeline = Timeline(order.trace)
        self._on_progress = on_progress
        self._shaped: SimpleQueue[tuple[Llava, Gate, int] | Exception] = SimpleQueue()
        self._end: SimpleQueue[Exception | None] = SimpleQueue()
        threading.Thread(target=self._run, args=[plan], name="lavatube-trail", daemon=True).start()
        shaped = self._shaped.get()
        if isinstance(shaped, Exception):
            raise shaped
        model, self._gate, size_bytes = shaped
        # On a CPU memory is taken when it is first written to.
        self.core = make_core(order, plan, model, size_bytes if plan.device.type == "cpu" else 0, self._gate)

    @property
    def num_waits(self) -> int:
        """Grows while a pass is held."""
        return self._gate.num_waits

    def wait(self) -> None:
        """Until the model is whole and verified. Raises: OperatorError; Spoiled."""
        error = self._end.get()
        if error is not None:
            raise error

    def _run(self, plan: LoadPlan) -> None:
        try:
            self._fill(plan)
        except Exception as error:  # noqa: BLE001 - it is raised where somebody waits, before or after the shapes
            self._shaped.put(error)
            self._end.put(error)
        else:
            self._end.put(None)

    def _fill(self, plan: LoadPlan) -> None:
        gate: Gate | None = None

        def on_shaped(model: Llava, sizes: dict[str, int]) -> None:
            nonlocal gate
            gate = Gate(sizes, self.timeline.on_pass)
            self._shaped.put((model, gate, sum(sizes.values())))

        def on_progress(done_bytes: int, total_bytes: int) -> None:
            assert gate is not None
            gate.advance(done_bytes)
            self.timeline.on_progress(done_bytes)
            self._on_progress(done_bytes, total_bytes)

        try:
            plan.load(on_progress, on_shaped)
        except OperatorError:
            self._wait_verified(arrival for arrival in self._arrivals.values() if not arrival.has_digests)
            raise  # it was not bytes damaged on their way that looked like a bad checkpoint
        self._wait_verified(self._arrivals.values())
        assert gate is not None
        gate.open()

    def _wait_verified(self, arrivals: Iterable[Arrival]) -> None:
        """Raises: Spoiled."""
        for arrival in arrivals:
            arrival.wait_verified()

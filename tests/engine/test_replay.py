"""The engine with replayed steps: every answer is that of steps that are computed, whoever comes and goes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from lavatube.engine.capacity import BLOCK_SIZE
from lavatube.engine.core import EngineCore
from lavatube.engine.wire import RequestEvent, Submit
from lavatube.model.examples import Examples
from lavatube.model.llava import Llava
from lavatube.model.load import load_model
from lavatube.model.replay import Decoded, Record, cuda_recorder
from lavatube.spec import ModelSpec
from tests.engine.requests import GREEDY, SEEDED, answer, run, submit
from tests.model.replaying import Recorder


@pytest.fixture(scope="module")
def requests(spec: ModelSpec) -> list[Submit]:
    """Greedy and seeded, with and without a picture, of several lengths."""
    return [
        submit(spec, "a", GREEDY, length=5, num_images=1, seed=1),
        submit(spec, "b", SEEDED, length=40, seed=2),
        submit(spec, "c", replace(SEEDED, seed=8), length=9, num_images=1, seed=3),
        submit(spec, "d", replace(GREEDY, max_tokens=30), length=3, seed=4),
    ]


@pytest.fixture(scope="module")
def computed(model: Llava, spec: ModelSpec, requests: list[Submit]) -> dict[str, list[int]]:
    events = run(EngineCore(model, spec, num_blocks=64, max_sequences=4, max_step_tokens=512), *requests)
    return {name: answer(of_one) for name, of_one in events.items()}


def replayed(model: Llava, spec: ModelSpec, requests: list[Submit], record: Record) -> dict[str, list[int]]:
    """Answers of requests that come two steps apart."""
    core = EngineCore(model, spec, num_blocks=64, max_sequences=4, max_step_tokens=512, record=record)
    events: dict[str, list[RequestEvent]] = {request.request_id: [] for request in requests}
    waiting = list(requests)
    for number in range(10_000):
        if waiting and number % 2 == 0:
            core.submit(waiting.pop(0))
        for event in core.step():
            events[event.request_id].append(event)
        core.tend()
        if not waiting and not core.has_work:
            break
    core.check_integrity()
    return {name: answer(of_one) for name, of_one in events.items()}


def test_answers_are_those_of_computed_steps(
    twins: Llava, spec: ModelSpec, requests: list[Submit], computed: dict[str, list[int]]
) -> None:
    recorder = Recorder()
    assert replayed(twins, spec, requests, recorder) == computed
    assert recorder.num_recorded == 3
    assert recorder.num_repeated > 20


def test_nothing_is_recorded_before_it_is_known_which_kernels_run(
    model: Llava, spec: ModelSpec, requests: list[Submit], computed: dict[str, list[int]]
) -> None:
    recorder = Recorder()
    assert replayed(model, spec, requests, recorder) == computed
    assert recorder.num_recorded == 0


def test_a_device_that_cannot_record_computes(
    twins: Llava,
    spec: ModelSpec,
    requests: list[Submit],
    computed: dict[str, list[int]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(step: Callable[[], Decoded]) -> tuple[Callable[[], object], Decoded]:
        raise RuntimeError("operation not permitted when stream is capturing")

    assert replayed(twins, spec, requests, refuse) == computed
    assert caplog.messages == [
        "steps can't be recorded, so all are computed, slower: operation not permitted when stream is capturing"
    ]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_answers_of_cuda_graphs_are_those_of_computed_steps(
    checkpoint: Path, spec: ModelSpec, requests: list[Submit], caplog: pytest.LogCaptureFixture
) -> None:
    device = torch.device("cuda", 0)
    model = load_model(spec, checkpoint, device, torch.float32, lambda done, total: None)
    plain = run(EngineCore(model, spec, num_blocks=64, max_sequences=4, max_step_tokens=512), *requests)
    model.fused.prove(Examples(spec.language, BLOCK_SIZE, torch.float32, device))
    record, recorded = cuda_recorder(), []

    def count(step: Callable[[], Decoded]) -> tuple[Callable[[], object], Decoded]:
        recorded.append(record(step))
        return recorded[-1]

    assert replayed(model, spec, requests, count) == {name: answer(events) for name, events in plain.items()}
    assert len(recorded) == 3
    assert caplog.messages == []

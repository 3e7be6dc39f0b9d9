"""The engine on a thread: iterators for any thread, an end for everyone, whatever happens."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from msgspec.structs import replace

from lavatube.engine.core import EngineCore
from lavatube.engine.local import LocalEngine
from lavatube.engine.wire import Done, RequestEvent, Tokens
from lavatube.errors import Conflict, Draining, EngineCrashed
from lavatube.model.llava import Llava
from lavatube.spec import ModelSpec
from tests.engine.conftest import NewCore
from tests.engine.requests import GREEDY, SEEDED, answer, failure, run, submit

ENDLESS = replace(GREEDY, max_tokens=240)


@pytest.fixture
def core(new_core: NewCore) -> EngineCore:
    return new_core()


@pytest.fixture
def engine(core: EngineCore) -> Iterator[LocalEngine]:
    engine = LocalEngine(core)
    yield engine
    engine.close()


def eventually(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline_s, "not within 20 s"
        time.sleep(0.005)


def test_the_same_answer_as_without_a_thread(engine: LocalEngine, new_core: NewCore, spec: ModelSpec) -> None:
    request = submit(spec, "a", SEEDED, num_images=1)
    assert answer(list(engine.submit(request))) == answer(run(new_core(), request)["a"])


def test_many_threads_at_once(engine: LocalEngine, new_core: NewCore, spec: ModelSpec) -> None:
    requests = [submit(spec, str(seed), replace(SEEDED, seed=seed), seed=seed) for seed in range(12)]
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda request: answer(list(engine.submit(request))), requests))
    wanted = run(new_core(), *requests)
    assert answers == [answer(wanted[request.request_id]) for request in requests]


def test_requests_run_before_they_are_read(engine: LocalEngine, core: EngineCore, spec: ModelSpec) -> None:
    streams = [engine.submit(submit(spec, name)) for name in "ab"]
    eventually(lambda: core.progress > 0 and not core.has_work)
    assert all(len(list(stream)) == GREEDY.max_tokens + 1 for stream in streams)


@pytest.mark.parametrize("end", ["close", "with", "drop"])
def test_closing_aborts(engine: LocalEngine, core: EngineCore, spec: ModelSpec, end: str) -> None:
    stream = engine.submit(submit(spec, "a", ENDLESS))
    assert isinstance(next(stream), Tokens)
    if end == "close":
        stream.close()
        rest = list(stream)
        assert isinstance(rest[-1], Done)
        assert rest[-1].reason == "abort"
    elif end == "with":
        with stream:
            pass
    else:
        del stream
        gc.collect()
    eventually(lambda: core.free_cache_tokens == core.cache_tokens)


def test_after_the_end_there_is_nothing_more(engine: LocalEngine, spec: ModelSpec) -> None:
    stream = engine.submit(submit(spec, "a"))
    assert len(list(stream)) == GREEDY.max_tokens + 1
    assert list(stream) == []
    stream.close()


def test_a_stream_that_has_ended_does_not_end_another_of_its_name(engine: LocalEngine, spec: ModelSpec) -> None:
    ended = engine.submit(submit(spec, "a"))
    list(ended)
    stream = engine.submit(submit(spec, "a"))
    ended.close()
    assert len(answer(list(stream))) == GREEDY.max_tokens


def test_a_close_wakes_a_reader_in_another_thread(engine: LocalEngine, spec: ModelSpec) -> None:
    stream = engine.submit(submit(spec, "a", ENDLESS))
    seen: list[RequestEvent] = []
    reader = threading.Thread(target=lambda: seen.extend(stream))
    reader.start()
    stream.close()
    reader.join(5)
    assert not reader.is_alive()
    assert isinstance(seen[-1], Done)


def test_bad_data_fails_alone(engine: LocalEngine, spec: ModelSpec) -> None:
    good = engine.submit(submit(spec, "good"))
    bad = engine.submit(replace(submit(spec, "bad"), token_ids=[-1]))
    assert failure(list(bad)) == "invalid_input"
    assert len(answer(list(good))) == GREEDY.max_tokens


def test_an_id_in_use_is_refused(engine: LocalEngine, spec: ModelSpec) -> None:
    stream = engine.submit(submit(spec, "a", ENDLESS))
    with pytest.raises(Conflict):
        engine.submit(submit(spec, "a"))
    stream.close()
    list(stream)
    assert list(engine.submit(submit(spec, "a")))


def test_a_closed_engine_answers_everyone(core: EngineCore, spec: ModelSpec) -> None:
    engine = LocalEngine(core)
    stream = engine.submit(submit(spec, "a", ENDLESS))
    engine.close()
    engine.close()
    with pytest.raises(Draining):
        list(stream)
    with pytest.raises(Draining):
        engine.submit(submit(spec, "b"))


class Bomb(Exception):
    """What no one expects of a model."""


def test_a_crash_reaches_every_waiter(model: Llava, spec: ModelSpec, new_core: NewCore) -> None:
    def explode(*_: object) -> None:
        raise Bomb

    engine = LocalEngine(new_core())
    streams = [engine.submit(submit(spec, name, ENDLESS)) for name in "abc"]
    for stream in streams:
        next(stream)
    handle = model.language.norm.register_forward_hook(explode)
    try:
        for stream in streams:
            with pytest.raises(EngineCrashed) as crashed:
                list(stream)
            assert isinstance(crashed.value.__cause__, Bomb)
    finally:
        handle.remove()
    with pytest.raises(EngineCrashed):
        engine.submit(submit(spec, "late"))
    engine.close()

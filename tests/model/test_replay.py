"""Replayed decode steps: rows get what they get in computed ones, and those that only fill up touch nothing."""

from __future__ import annotations

import pytest
import torch

from lavatube.checkpoint.read import read_spec
from lavatube.model.llava import Llava
from lavatube.model.load import load_model
from lavatube.model.replay import Replay
from lavatube.spec import ModelSpec
from tests.checkpoints import write_checkpoint
from tests.model.driver import Driver, Stream
from tests.model.replaying import Recorder, take_twins

NUM_BLOCKS, MAX_ROWS = 64, 6


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return read_spec(write_checkpoint(tmp_path_factory.mktemp("checkpoint"), max_positions=128))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Llava:
    folder = write_checkpoint(tmp_path_factory.mktemp("checkpoint"), max_positions=128)
    return take_twins(
        load_model(read_spec(folder), folder, torch.device("cpu"), torch.float32, lambda done, total: None)
    )


def test_rows_get_what_they_get_when_computed_and_the_others_touch_nothing(model: Llava, spec: ModelSpec) -> None:
    draw = torch.Generator().manual_seed(0)
    recorder = Recorder()
    drivers = [Driver(model, spec, num_blocks=NUM_BLOCKS) for _ in range(2)]
    computing, replaying = drivers
    scratch = replaying.take_block()
    assert computing.take_block() == scratch
    replay = Replay(model, replaying.cache, scratch, MAX_ROWS, NUM_BLOCKS, recorder)
    streams = [[Stream() for _ in range(5)] for _ in drivers]
    prompts = [model.embed_tokens(torch.randint(3, 300, (count,), generator=draw)) for count in (3, 9, 20, 1, 30)]
    for driver, own in zip(drivers, streams, strict=True):
        driver.step(list(zip(own, prompts, strict=True)))
    for count in (5, 3, 1, 4, 2, 5):
        ids = torch.randint(3, 300, (count,), generator=draw)
        rows = model.embed_tokens(ids).split(1)
        expected = torch.cat(computing.step(list(zip(streams[0][:count], rows, strict=True))))
        if not replay.has(count):
            replay.record_wanted()
        _, logits = replay.decode(ids, replaying.layout([(stream, 1) for stream in streams[1][:count]]))
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    assert recorder.num_recorded == 4  # of 1, 2, 4 and 6 rows
    outside = torch.ones(replaying.cache.keys.shape[2], dtype=torch.bool)
    outside[scratch * replaying.cache.block_size] = False  # the slot that rows of nobody write to
    torch.testing.assert_close(
        replaying.cache.keys[:, :, outside], computing.cache.keys[:, :, outside], rtol=1e-5, atol=1e-5, equal_nan=True
    )


def test_ids_that_nobody_has_seen_are_taken_where_they_are(model: Llava, spec: ModelSpec) -> None:
    """Rows of a step take theirs from what the step before chose, in any order, and leave some out."""
    ids = torch.randint(3, 300, (5,), generator=torch.Generator().manual_seed(1))
    places = torch.tensor([4, 0, 3])
    logits = []
    for token_ids, chosen in ((ids[places], None), (places, ids)):
        driver, streams = Driver(model, spec, num_blocks=NUM_BLOCKS), [Stream() for _ in places]
        replay = Replay(model, driver.cache, driver.take_block(), MAX_ROWS, NUM_BLOCKS, Recorder())
        assert not replay.has(3)
        replay.record_wanted()
        logits.append(replay.decode(token_ids, driver.layout([(stream, 1) for stream in streams]), chosen)[1])
    torch.testing.assert_close(logits[1], logits[0], rtol=0, atol=0)


def test_what_has_come_to_be_wrong_is_computed_from_then_on(
    model: Llava, spec: ModelSpec, caplog: pytest.LogCaptureFixture
) -> None:
    driver = Driver(model, spec, num_blocks=NUM_BLOCKS)
    replay = Replay(model, driver.cache, driver.take_block(), MAX_ROWS, NUM_BLOCKS, lambda step: (lambda: None, step()))
    ids, stream = torch.tensor([5]), Stream()
    assert not replay.has(1)
    replay.record_wanted()
    assert replay.has(1)
    _, logits = replay.decode(ids, driver.layout([(stream, 1)]))
    (expected,) = Driver(model, spec).step([(Stream(), model.embed_tokens(ids))])
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    assert not replay.has(1)
    assert caplog.messages == ["replayed steps differ from those that are computed: from now on all are, slower"]

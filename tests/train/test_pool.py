"""Batches are a function of the seed and of the step."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

import train.pool
from train.pool import KIND, Pool


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pool:
    monkeypatch.setattr(train.pool, "SHARD_PICTURES", 32)
    pool = Pool(tmp_path, 1, num_shards=2)
    pool.draw_missing()
    return pool


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_who_starts_later_gets_the_same_batches(pool: Pool, share: float) -> None:
    all_ = list(islice(pool.batches(5, 0, share), 12))
    later = list(islice(pool.batches(5, 7, share), 5))
    assert [step for step, _ in all_] == [*range(12)]
    for (step, batch), (known_step, known) in zip(later, all_[7:], strict=True):
        assert step == known_step
        assert np.array_equal(batch.pixels, known.pixels)
        assert np.array_equal(batch.things, known.things)


def test_pictures_of_a_single_thing_are_left_out_first(pool: Pool) -> None:
    def num_single(share: float) -> int:
        _, batch = next(pool.batches(round(32 * share), 0, share))
        return int((batch.things[:, 1, KIND] < 0).sum())

    left_out = 32 - 20
    assert num_single(20 / 32) == max(num_single(1.0) - left_out, 0)

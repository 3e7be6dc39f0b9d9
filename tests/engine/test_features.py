"""Encoded images are kept within their bytes, found by their keys alone, and never when they are not numbers."""

from __future__ import annotations

import pytest
import torch

from lavatube.engine.admission import admit
from lavatube.engine.encoder import Encoder
from lavatube.engine.features import FeatureCache
from lavatube.model.llava import Llava
from lavatube.spec import ModelSpec
from tests.engine.requests import submit

CPU = torch.device("cpu")


def test_the_least_recently_used_is_let_go() -> None:
    cache = FeatureCache(max_bytes=3 * 40)
    rows = {name: torch.full((10,), float(index)) for index, name in enumerate((b"a", b"b", b"c", b"d"))}
    for name in (b"a", b"b", b"c"):
        cache.keep(name, rows[name])
    assert cache.find(b"a", CPU) is rows[b"a"]
    cache.keep(b"d", rows[b"d"])
    assert [name for name in rows if cache.find(name, CPU) is not None] == [b"a", b"c", b"d"]
    assert (cache.size_bytes, len(cache)) == (120, 3)


@pytest.mark.parametrize("max_bytes", [0, 39])
def test_what_is_too_large_is_not_kept_and_drives_nothing_out(max_bytes: int) -> None:
    cache = FeatureCache(max_bytes)
    cache.keep(b"small", torch.zeros(2))
    cache.keep(b"large", torch.zeros(10))
    assert cache.find(b"large", CPU) is None
    assert (cache.find(b"small", CPU) is not None) == (max_bytes > 0)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_a_number_is_not_kept(value: float) -> None:
    cache = FeatureCache(1000)
    cache.keep(b"a", torch.tensor([0.0, value]))
    assert cache.find(b"a", CPU) is None
    assert cache.size_bytes == 0


def test_an_image_that_several_want_is_encoded_once(model: Llava, spec: ModelSpec) -> None:
    encoder = Encoder(model, FeatureCache(1 << 20))
    alone = Encoder(model, FeatureCache(0))
    two = [admit(submit(spec, name, num_images=2, seed=5), spec, 1000, 0.0)[0] for name in "ab"]
    reference = admit(submit(spec, "c", num_images=2, seed=5), spec, 1000, 0.0)[0]
    encoder.encode((sequence, index) for sequence in two for index in (0, 1))
    for index in (0, 1):
        alone.encode([(reference, index)])
        assert two[0].features[index] is two[1].features[index]
        torch.testing.assert_close(two[0].features[index], reference.features[index], atol=1e-6, rtol=1e-5)
    assert len(encoder.cache) == 2
    assert len(alone.cache) == 0
    third = admit(submit(spec, "d", num_images=2, seed=5), spec, 1000, 0.0)[0]
    encoder.encode([(third, 1)])
    assert third.features[1] is two[0].features[1]

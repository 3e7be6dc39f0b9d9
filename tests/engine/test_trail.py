"""An engine that is asked before its weights are here: the same answers to the last bit, and none too early."""

from __future__ import annotations

import shutil
import threading
from itertools import chain, repeat
from pathlib import Path

import msgspec
import pytest
import torch

from lavatube.checkpoint.read import read_spec
from lavatube.engine.core import EngineCore
from lavatube.engine.load import load_core
from lavatube.engine.trail import Trail
from lavatube.engine.wire import Done, RequestEvent, Submit, Tokens
from lavatube.errors import UnsupportedCheckpoint
from lavatube.model.llava import Llava
from lavatube.spec import ModelSpec
from lavatube.weights.arrival import Spoiled
from lavatube.weights.headers import read_header
from lavatube.weights.order import rank_chunks, tail_bytes
from lavatube.weights.parts import Part
from tests.engine.requests import GREEDY, drain, failure, run, submit
from tests.engine.test_load import order
from tests.originals import write_original

FILE = "model.safetensors"
CHUNK = 16 * 1024
STEP = 12
WAIT_S = 60.0


class Source:
    """Stands for the process that fetches: gives an engine's folder the bytes of a checkpoint, chunk by chunk."""

    def __init__(self, checkpoint: Path, root: Path, *, has_digests: bool, file: str = FILE) -> None:
        self.folder = root / "staged"
        shutil.copytree(checkpoint, self.folder)
        (self.folder / file).unlink()
        self.data = (checkpoint / file).read_bytes()
        self.has_digests = has_digests
        self.part = Part(root, "x", len(self.data), CHUNK, has_digests=has_digests)
        self.part.link_to(self.folder / file)
        self._blob = root / "ab" / "blob"
        header_bytes = 8 + int.from_bytes(self.data[:8], "little") if file == FILE else CHUNK
        first, last = -(-header_bytes // CHUNK), self.part.num_chunks - tail_bytes(file) // CHUNK
        self.rest = list(range(first, last))
        self.bring(*range(first), *range(last, self.part.num_chunks))

    def bring(self, *chunks: int) -> None:
        for chunk in chunks:
            start, stop = self.part.span(chunk)
            self._put(chunk, self.data[start:stop])

    def bring_zeros(self, *chunks: int) -> None:
        for chunk in chunks:
            start, stop = self.part.span(chunk)
            self._put(chunk, bytes(stop - start))

    def bring_nans(self, *chunks: int) -> None:
        for chunk in chunks:
            start, stop = self.part.span(chunk)
            self._put(chunk, b"\xff" * (stop - start))

    def verify(self) -> None:
        self.part.commit(self._blob)

    def _put(self, chunk: int, data: bytes) -> None:
        self.part.write(memoryview(data), self.part.span(chunk)[0])
        self.part.mark(chunk)
        if self.has_digests:
            self.part.vouch(chunk)


class Asked(threading.Thread):
    """One request on its way through an engine, until it is over or its asker leaves."""

    def __init__(self, core: EngineCore, spec: ModelSpec) -> None:
        super().__init__(daemon=True)
        self.events: list[RequestEvent] = []
        self._core = core
        self._has_left = threading.Event()
        core.submit(question(spec))

    def run(self) -> None:
        while self._core.has_work and not self._has_left.is_set():
            self.events += self._core.step()

    def leave(self) -> None:
        self._has_left.set()
        self.join(WAIT_S)


def question(spec: ModelSpec) -> Submit:
    """Answered with likelihoods, which differ when a single bit of the logits does."""
    return submit(spec, "a", msgspec.structs.replace(GREEDY, top_logprobs=5), num_images=1)


def ask(core: EngineCore, spec: ModelSpec) -> list[RequestEvent]:
    return run(core, question(spec))["a"]


def said(events: list[RequestEvent]) -> list[Tokens]:
    return [event for event in events if isinstance(event, Tokens)]


@pytest.fixture(params=[True, False], ids=["digests of chunks", "one digest"])
def source(request: pytest.FixtureRequest, checkpoint: Path, tmp_path: Path) -> Source:
    return Source(checkpoint, tmp_path, has_digests=request.param)


def test_the_answer_is_that_of_a_plain_load(source: Source, checkpoint: Path, spec: ModelSpec) -> None:
    trail = Trail(order(source.folder), lambda done, total: None)
    asked = Asked(trail.core, spec)
    asked.start()
    source.bring(*source.rest)
    source.verify()
    trail.wait()
    asked.join(WAIT_S)
    assert said(asked.events)
    assert said(asked.events) == said(ask(load_core(order(checkpoint)), spec))


def test_a_file_of_torch_is_followed_as_well(checkpoint: Path, tmp_path: Path) -> None:
    folder = write_original(tmp_path / "original", checkpoint, torch_files=True)
    spec = read_spec(folder)
    source = Source(folder, tmp_path, has_digests=True, file="pytorch_model.bin")
    trail = Trail(order(source.folder), lambda done, total: None)
    asked = Asked(trail.core, spec)
    asked.start()
    source.bring(*source.rest)
    trail.wait()
    asked.join(WAIT_S)
    assert said(asked.events) == said(ask(load_core(order(folder)), spec)) != []


def test_layers_are_computed_as_they_land(checkpoint: Path, spec: ModelSpec, tmp_path: Path) -> None:
    source = Source(checkpoint, tmp_path, has_digests=True)
    ranks = rank_chunks(read_header(checkpoint / FILE), len(source.data), CHUNK)
    in_order = sorted(source.rest, key=lambda chunk: ranks[chunk])
    early, late = in_order[:-1], in_order[-1:]
    trail = Trail(order(source.folder), lambda done, total: None)
    asked = Asked(trail.core, spec)
    asked.start()
    source.bring(*early)
    while trail.core.progress == 0:  # layers that have run
        asked.join(0.01)
    assert asked.is_alive()
    source.bring(*late)
    source.verify()
    trail.wait()
    asked.join(WAIT_S)
    assert said(asked.events)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_prompt_of_several_pieces_goes_through_each_layer_as_it_lands(
    checkpoint: Path, spec: ModelSpec, tmp_path: Path, dtype: str
) -> None:
    """With all but the head here, every layer has run over every piece; and the answer has the same bits as ever."""
    source = Source(checkpoint, tmp_path, has_digests=True)
    ranks = rank_chunks(read_header(checkpoint / FILE), len(source.data), CHUNK)
    *early, late = sorted(source.rest, key=lambda chunk: ranks[chunk])
    prompt = submit(spec, "a", msgspec.structs.replace(GREEDY, top_logprobs=5), length=60, num_images=2)
    num_pieces = -(-len(prompt.token_ids) // STEP)
    assert num_pieces > 5
    trail = Trail(order(source.folder, max_step_tokens=STEP, dtype=dtype), lambda done, total: None)
    core = trail.core
    core.submit(prompt)
    source.bring(*early)
    num_tower_layers = 2 * spec.vision.num_layers_run  # each picture begins in another piece
    while core.progress < num_tower_layers + num_pieces * spec.language.num_layers:
        assert core.step() == []
    source.bring(late)
    source.verify()
    trail.wait()
    answer = drain(core)["a"]
    plain = load_core(order(checkpoint, max_step_tokens=STEP, dtype=dtype))
    assert said(answer) == said(run(plain, prompt)["a"]) != []


def test_who_comes_while_another_is_held_goes_along(checkpoint: Path, spec: ModelSpec, tmp_path: Path) -> None:
    source = Source(checkpoint, tmp_path, has_digests=True)
    ranks = rank_chunks(read_header(checkpoint / FILE), len(source.data), CHUNK)
    *early, late = sorted(source.rest, key=lambda chunk: ranks[chunk])
    trail = Trail(order(source.folder), lambda done, total: None)
    source.bring(*early)
    prompts = [submit(spec, name, num_images=1, seed=seed) for seed, name in enumerate("ab")]
    num_layers = spec.vision.num_layers_run + spec.language.num_layers
    for number, prompt in enumerate(prompts, start=1):
        trail.core.submit(prompt)
        while trail.core.progress < number * num_layers:
            assert trail.core.step() == []
    source.bring(late)
    source.verify()
    trail.wait()
    answers, core = drain(trail.core), load_core(order(checkpoint))
    for prompt in prompts:
        assert said(answers[prompt.request_id]) == said(run(core, prompt)[prompt.request_id])


def test_who_is_aborted_while_it_is_held_leaves_at_once(checkpoint: Path, spec: ModelSpec, tmp_path: Path) -> None:
    source = Source(checkpoint, tmp_path, has_digests=True)
    trail = Trail(order(source.folder), lambda done, total: None)
    core = trail.core
    leaving, staying = (submit(spec, name, num_images=1, seed=seed) for seed, name in enumerate("ab"))
    core.submit(leaving)
    core.submit(staying)
    assert core.step() == []
    before = core.free_cache_tokens
    core.abort("a")
    assert core.free_cache_tokens > before
    (end,) = core.step()
    assert isinstance(end, Done)
    assert (end.request_id, end.reason) == ("a", "abort")
    core.check_integrity()
    source.bring(*source.rest)
    source.verify()
    trail.wait()
    assert said(drain(core)["b"]) == said(run(load_core(order(checkpoint)), staying)["b"])


def test_choices_that_go_on_fail_together_and_alone(
    checkpoint: Path, spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(checkpoint, tmp_path, has_digests=True)
    trail = Trail(order(source.folder), lambda done, total: None)
    core = trail.core
    several = submit(spec, "several", msgspec.structs.replace(GREEDY, num_choices=2), length=40)
    core.submit(msgspec.structs.replace(several, begun=[[5, 6], [7, 8]]))
    assert core.step() == []
    source.bring(*source.rest)
    source.verify()
    trail.wait()
    plain, factors = Llava.logits, chain([torch.nan], repeat(1))  # the first of them fails, and the other with it
    with monkeypatch.context() as patch:
        patch.setattr(Llava, "logits", lambda self, hidden: plain(self, hidden) * next(factors))
        assert failure(drain(core)["several"]) == "engine_numerical_error"
    assert said(ask(core, spec)) == said(ask(load_core(order(checkpoint)), spec))


def test_no_token_leaves_before_everything_is_verified(checkpoint: Path, spec: ModelSpec, tmp_path: Path) -> None:
    source = Source(checkpoint, tmp_path, has_digests=False)
    is_filled = threading.Event()
    trail = Trail(order(source.folder), lambda done, total: is_filled.set() if done == total else None)
    asked = Asked(trail.core, spec)
    asked.start()
    source.bring(*source.rest)
    assert is_filled.wait(WAIT_S)
    before = trail.num_waits
    while trail.num_waits == before:  # it has been held for a while with every byte in place
        asked.join(0.1)
    assert asked.is_alive()
    source.verify()
    asked.join(WAIT_S)
    assert said(asked.events)


def test_bytes_that_were_used_and_turn_out_wrong_end_it(checkpoint: Path, spec: ModelSpec, tmp_path: Path) -> None:
    source = Source(checkpoint, tmp_path, has_digests=False)
    trail = Trail(order(source.folder), lambda done, total: None)
    asked = Asked(trail.core, spec)
    asked.start()
    source.bring_zeros(*source.rest)
    source.part.reset(source.rest)
    source.bring(*source.rest)
    source.verify()
    with pytest.raises(Spoiled):
        trail.wait()
    assert asked.is_alive(), "it is held for good: whoever runs the engine ends it"
    asked.leave()


def test_damage_that_looks_like_a_bad_checkpoint_is_known_for_what_it_is(checkpoint: Path, tmp_path: Path) -> None:
    source = Source(checkpoint, tmp_path, has_digests=False)
    trail = Trail(order(source.folder), lambda done, total: None)
    source.bring_nans(*source.rest)
    source.part.reset(source.rest)
    with pytest.raises(Spoiled):
        trail.wait()


def test_a_bad_checkpoint_that_is_verified_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    source = Source(checkpoint, tmp_path, has_digests=True)
    trail = Trail(order(source.folder), lambda done, total: None)
    source.bring_nans(*source.rest)
    with pytest.raises(UnsupportedCheckpoint, match="NaN"):
        trail.wait()


def test_what_does_not_fit_is_refused_before_its_bytes_are_here(checkpoint: Path, tmp_path: Path) -> None:
    source = Source(checkpoint, tmp_path, has_digests=True)
    config = source.folder / "config.json"
    config.write_text(config.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 3'))
    with pytest.raises(UnsupportedCheckpoint, match="missing"):
        Trail(order(source.folder), lambda done, total: None)

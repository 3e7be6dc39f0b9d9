"""What was computed before is not computed again, and no answer shows it: an engine that forgets is the measure."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from lavatube.engine.core import EngineCore
from lavatube.engine.feature_files import FeatureFiles
from lavatube.engine.wire import Done, RequestEvent, Sampling, Submit
from lavatube.model.llava import Llava
from lavatube.spec import ModelSpec
from tests.engine.conftest import NewCore
from tests.engine.requests import GREEDY, SEEDED, answer, drain, failure, pixels, run, submit

BLOCK = 16


def forgetful(new_core: NewCore) -> EngineCore:
    return new_core(is_reusing=False)


def cached(events: list[RequestEvent]) -> int:
    done = events[-1]
    assert isinstance(done, Done)
    return done.cached_tokens


class Beside:
    """Asks an engine that remembers and one that forgets, and looks at all that the model says."""

    def __init__(self, model: Llava, vocab_size: int, forgetful: EngineCore, monkeypatch: pytest.MonkeyPatch) -> None:
        self._forgetful, self._vocab_size = forgetful, vocab_size
        self._seen: list[torch.Tensor] = []
        compute = model.logits

        def logits(hidden: torch.Tensor) -> torch.Tensor:
            self._seen.append(compute(hidden).clone())
            return self._seen[-1]

        monkeypatch.setattr(model, "logits", logits)

    def ask(self, core: EngineCore, request: Submit) -> list[RequestEvent]:
        """What `core` answers: the same tokens as the other, and in each place all logits within 1e-5."""
        events, logits = self._run(core, request)
        wanted, wanted_logits = self._run(self._forgetful, request)
        assert answer(events) == answer(wanted)
        assert logits.shape == (len(answer(events)), self._vocab_size), "a row of the whole vocabulary for each token"
        torch.testing.assert_close(logits, wanted_logits, atol=1e-5, rtol=0)
        torch.testing.assert_close(logits.log_softmax(dim=-1), wanted_logits.log_softmax(dim=-1), atol=1e-5, rtol=0)
        return events

    def _run(self, core: EngineCore, request: Submit) -> tuple[list[RequestEvent], torch.Tensor]:
        self._seen.clear()
        events = run(core, request)[request.request_id]
        return events, torch.cat(self._seen).double()


@pytest.fixture
def beside(model: Llava, spec: ModelSpec, new_core: NewCore, monkeypatch: pytest.MonkeyPatch) -> Beside:
    return Beside(model, spec.language.vocab_size, forgetful(new_core), monkeypatch)


@pytest.fixture
def first(spec: ModelSpec) -> Submit:
    """A picture and a question."""
    return submit(spec, "first", length=20, num_images=1, seed=1)


def ask_again(first: Submit, name: str = "again", **changes: object) -> Submit:
    """The same but for the last five tokens."""
    return replace(first, request_id=name, token_ids=[*first.token_ids[:-5], ord(name[-1]), 11, 12, 13], **changes)


def test_a_follow_up_question_costs_what_is_new(new_core: NewCore, beside: Beside, first: Submit) -> None:
    core = new_core()
    assert cached(beside.ask(core, first)) == 0
    assert cached(beside.ask(core, ask_again(first))) == (len(first.token_ids) - 5) // BLOCK * BLOCK


def test_each_turn_of_a_conversation_costs_what_is_new(new_core: NewCore, beside: Beside, first: Submit) -> None:
    """The answer is part of the next prompt, and was computed, too, but for its last token."""
    core, turn = new_core(), first
    said = answer(beside.ask(core, turn))
    for number in range(3):
        known = len(turn.token_ids) + len(said) - 1
        turn = replace(turn, request_id=f"{number}", token_ids=[*turn.token_ids, *said, 21 + number, 22, 23])
        events = beside.ask(core, turn)
        assert cached(events) == known // BLOCK * BLOCK
        said = answer(events)


def test_a_system_prompt_is_computed_once_for_all(new_core: NewCore, beside: Beside, spec: ModelSpec) -> None:
    """With a picture after it, too, and other questions of other lengths."""
    core, system = new_core(), submit(spec, "", length=3 * BLOCK + 5, seed=8).token_ids
    for number, num_images in enumerate((0, 0, 1, 1)):
        asked = submit(spec, f"{number}", length=4 + number, num_images=num_images, seed=20 + number)
        events = beside.ask(core, replace(asked, token_ids=[*system, *asked.token_ids]))
        assert cached(events) == (3 * BLOCK if number else 0)


def test_the_same_request_again_computes_its_last_tokens(new_core: NewCore, first: Submit) -> None:
    core = new_core()
    wanted = answer(run(core, first)["first"])
    events = run(core, replace(first, request_id="twin"))["twin"]
    assert answer(events) == wanted
    assert 0 < cached(events) < len(first.token_ids)


def test_another_picture_is_never_a_hit(new_core: NewCore, spec: ModelSpec, first: Submit) -> None:
    core = new_core()
    run(core, first)
    other = replace(first, request_id="other", images=[pixels(spec, seed=2)])
    events = run(core, other)["other"]
    assert cached(events) == 0
    assert answer(events) == answer(run(forgetful(new_core), other)["other"])
    assert answer(events) != answer(run(forgetful(new_core), first)["first"])


def test_another_salt_finds_neither_blocks_nor_pictures(new_core: NewCore, first: Submit) -> None:
    core = new_core(image_cache_bytes=1 << 20)
    run(core, first)
    strangers = replace(first, request_id="stranger", salt=b"another owner")
    assert cached(run(core, strangers)["stranger"]) == 0
    assert core.caches.image_hits == 0
    assert cached(run(core, replace(strangers, request_id="same owner"))["same owner"]) > 0


def test_a_picture_elsewhere_in_the_prompt_is_not_encoded_again(
    new_core: NewCore, beside: Beside, first: Submit
) -> None:
    """Its keys and values are others there; its features are not."""
    core = new_core(image_cache_bytes=1 << 20)
    run(core, first)
    later = replace(first, request_id="later", token_ids=[50, 51, 52, *first.token_ids])
    events = beside.ask(core, later)
    assert (cached(events), core.caches.image_hits, core.caches.image_misses) == (0, 1, 1)


def test_a_picture_from_disk_is_as_good_as_one_that_was_encoded(
    model: Llava, spec: ModelSpec, beside: Beside, first: Submit, tmp_path: Path
) -> None:
    for num_found in (0, 1):
        files = FeatureFiles(tmp_path, 1 << 20, "weights")
        core = EngineCore(model, spec, num_blocks=64, max_sequences=8, max_step_tokens=512, image_files=files)
        beside.ask(core, first)
        files.close()
        assert (core.caches.image_disk_hits, core.caches.image_misses) == (num_found, 1 - num_found)


def test_questions_that_come_together_share_one_prefill(new_core: NewCore, spec: ModelSpec, first: Submit) -> None:
    """Nobody computes what another is computing just now."""
    core = new_core(max_step_tokens=24, image_cache_bytes=1 << 20)
    asked = [first, *(ask_again(first, name, sampling=replace(SEEDED, seed=seed)) for seed, name in enumerate("abc"))]
    events = run(core, *asked)
    for request in asked:
        alone = run(forgetful(new_core), request)[request.request_id]
        assert answer(events[request.request_id]) == answer(alone)
    shared = (len(first.token_ids) - 5) // BLOCK * BLOCK
    assert [cached(events[request.request_id]) for request in asked] == [0, shared, shared, shared]
    assert core.caches.image_misses == 1


def test_choices_report_what_their_prompt_found(new_core: NewCore, first: Submit) -> None:
    core = new_core()
    run(core, first)
    several = ask_again(first, sampling=replace(SEEDED, num_choices=3))
    dones = [event for event in run(core, several)["again"] if isinstance(event, Done)]
    assert {done.cached_tokens for done in dones} == {(len(first.token_ids) - 5) // BLOCK * BLOCK}


def test_a_continued_answer_counts_what_was_found_of_its_prompt(new_core: NewCore, first: Submit) -> None:
    core = new_core()
    said = answer(run(core, first)["first"])
    rest = replace(first, request_id="rest", begun=[said[:9]])
    assert cached(run(core, rest)["rest"]) <= len(first.token_ids)


def test_what_failed_is_not_remembered(model: Llava, spec: ModelSpec, new_core: NewCore) -> None:
    """A fault that passes, in the middle of a prompt, leaves nothing behind: the same request is then computed anew."""
    core = new_core(max_step_tokens=24, image_cache_bytes=1 << 20)
    poison, place = 299, 40
    good = submit(spec, "a", length=70, seed=3)
    assert poison not in good.token_ids
    request = replace(good, token_ids=[*good.token_ids[:place], poison, *good.token_ids[place + 1 :]])
    weight = model.language.embed_tokens.weight
    with torch.inference_mode():
        kept = weight[poison].clone()
        try:
            weight[poison] = torch.nan
            assert failure(run(core, request)["a"]) == "engine_numerical_error"
        finally:
            weight[poison] = kept
    events = run(core, request)["a"]
    assert cached(events) == place // 24 * 24 // BLOCK * BLOCK, "only what was sound"
    assert answer(events) == answer(run(forgetful(new_core), request)["a"])


def test_what_was_driven_out_is_computed_again(new_core: NewCore, spec: ModelSpec, first: Submit) -> None:
    core = new_core(num_blocks=6)
    wanted = answer(run(core, first)["first"])
    run(core, submit(spec, "large", length=80, seed=9))
    events = run(core, first)["first"]
    assert cached(events) == 0
    assert answer(events) == wanted


@pytest.mark.parametrize("seed", range(4))
def test_any_company_in_a_small_cache_as_alone(new_core: NewCore, spec: ModelSpec, seed: int) -> None:
    """Conversations that branch, over few pictures, with aborts, preemption and eviction on the way."""
    rng = random.Random(seed)
    stems = [submit(spec, "", GREEDY, length=6, num_images=index % 2, seed=index) for index in range(3)]
    requests = []
    for index in range(12):
        stem = rng.choice(stems + requests)
        sampling = Sampling(rng.randint(1, 20), temperature=rng.choice([0.0, 1.0]), seed=index)
        more = [rng.randrange(3, 9) for _ in range(rng.randint(1, 20))]
        request = replace(stem, request_id=str(index), token_ids=[*stem.token_ids, *more], sampling=sampling)
        if len(request.token_ids) < 100:
            requests.append(request)
    core = new_core(num_blocks=9, max_sequences=4, max_step_tokens=20, image_cache_bytes=20_000)
    aborted = {request.request_id for request in requests if rng.random() < 0.2}
    events = []
    for request in requests:
        core.submit(request)
        for _ in range(rng.randint(0, 4)):
            events += core.step()
            core.check_integrity()
        if request.request_id in aborted:
            core.abort(request.request_id)
    rest = drain(core)
    found = 0
    for request in requests:
        name = request.request_id
        if name not in aborted:
            mine = [event for event in events if event.request_id == name] + rest[name]
            found += cached(mine)
            assert answer(mine) == answer(run(forgetful(new_core), request)[name])
    assert found > 0

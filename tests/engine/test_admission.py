"""What one request's bad data can be, and that each is refused with its reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from lavatube.engine.admission import admit
from lavatube.engine.sequence import SequenceState
from lavatube.engine.wire import Submit
from lavatube.errors import InvalidInput, PromptTooLong, RequestError
from lavatube.spec import ModelSpec
from tests.engine.requests import GREEDY, pixels, submit

CONTEXT = 256
Change = Callable[[ModelSpec, Submit], Submit]


def with_ids(change: Callable[[ModelSpec, list[int]], list[int]]) -> Change:
    return lambda spec, request: replace(request, token_ids=change(spec, list(request.token_ids)))


def with_sampling(**fields: object) -> Change:
    return lambda spec, request: replace(request, sampling=replace(request.sampling, **fields))


def with_pixels(**fields: object) -> Change:
    return lambda spec, request: replace(request, images=[replace(request.images[0], **fields)])


BAD: dict[str, Change] = {
    "no ids": with_ids(lambda spec, ids: []),
    "negative id": with_ids(lambda spec, ids: [*ids, -1]),
    "id past the vocabulary": with_ids(lambda spec, ids: [*ids, spec.language.vocab_size]),
    "a placeholder too many": with_ids(lambda spec, ids: [*ids, spec.image_token_id]),
    "a placeholder too few": with_ids(lambda spec, ids: [ids[0], *ids[2:]]),
    "placeholders in two pieces": with_ids(lambda spec, ids: [*ids[1:5], 7, *ids[5:], spec.image_token_id][1:]),
    "an image without placeholders": lambda spec, request: replace(request, images=[*request.images, pixels(spec, 9)]),
    "placeholders without an image": lambda spec, request: replace(request, images=[]),
    "pixels cut short": with_pixels(data=b"\0" * 17),
    "squares of another size": with_pixels(size=8, data=b"\0" * 192),
    "no squares": with_pixels(tiles=0, data=b""),
    "other number of tokens": with_pixels(tiles=2, data=b"\0" * (2 * 3 * 32 * 32)),
    "an image of another size": with_pixels(width=0),
    "an image of another prompt": with_pixels(num_images=2),
    "no token wanted": with_sampling(max_tokens=0),
    "temperature below 0": with_sampling(temperature=-0.1),
    "temperature not a number": with_sampling(temperature=float("nan")),
    "temperature without end": with_sampling(temperature=float("inf")),
    "top_p above 1": with_sampling(top_p=1.1),
    "top_p not a number": with_sampling(top_p=float("nan")),
    "top_k below 0": with_sampling(top_k=-1),
    "min_p above 1": with_sampling(min_p=1.5),
    "min_p not a number": with_sampling(min_p=float("nan")),
    "repetition_penalty 0": with_sampling(repetition_penalty=0.0),
    "repetition_penalty not a number": with_sampling(repetition_penalty=float("nan")),
    "presence_penalty without end": with_sampling(presence_penalty=float("inf")),
    "frequency_penalty not a number": with_sampling(frequency_penalty=float("nan")),
    "bias of an id past the vocabulary": with_sampling(logit_bias=((10**6, 1.0),)),
    "bias of an id below 0": with_sampling(logit_bias=((-1, 1.0),)),
    "two biases of one id": with_sampling(logit_bias=((1, 1.0), (1, 2.0))),
    "bias without end": with_sampling(logit_bias=((1, float("inf")),)),
    "min_tokens below 0": with_sampling(min_tokens=-1),
    "min_tokens above max_tokens": with_sampling(min_tokens=GREEDY.max_tokens + 1),
    "min_tokens in a grammar": with_sampling(min_tokens=1, grammar="start: /a/"),
    "too many logprobs": with_sampling(top_logprobs=21),
    "fewer logprobs than none": with_sampling(top_logprobs=-1),
    "no choice": with_sampling(num_choices=0),
    "too many choices": with_sampling(num_choices=9),
    "an answer without a prompt": lambda spec, request: replace(request, token_ids=[], images=[], begun=[[9]]),
    "an answer that is too long": lambda spec, request: replace(request, begun=[[9] * 13]),
    "an answer of ids past the vocabulary": lambda spec, request: replace(request, begun=[[10**6]]),
    "an answer of pictures": lambda spec, request: replace(request, begun=[[-200]]),
    "more answers than choices": lambda spec, request: replace(request, begun=[[9], [9]]),
    "no answer that goes on": lambda spec, request: replace(request, begun=[None]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_is_refused(spec: ModelSpec, name: str) -> None:
    request = BAD[name](spec, submit(spec, "a", num_images=1, length=4))
    with pytest.raises(InvalidInput):
        admit(request, spec, CONTEXT, 0.0)


def test_what_can_never_fit_is_refused(spec: ModelSpec) -> None:
    admit(submit(spec, "a", length=CONTEXT - 1), spec, CONTEXT, 0.0)
    with pytest.raises(PromptTooLong, match=str(CONTEXT)):
        admit(submit(spec, "a", length=CONTEXT), spec, CONTEXT, 0.0)


def test_an_answer_is_no_longer_than_the_cache_holds(spec: ModelSpec) -> None:
    assert admit(submit(spec, "a", length=CONTEXT - 3), spec, CONTEXT, 0.0)[0].sampling.max_tokens == 3
    assert admit(submit(spec, "a", length=3), spec, CONTEXT, 0.0)[0].sampling == GREEDY


def test_refusals_are_the_clients_fault_and_say_what_to_do(spec: ModelSpec) -> None:
    with pytest.raises(RequestError) as refused:
        admit(submit(spec, "a", length=300), spec, CONTEXT, 0.0)
    assert refused.value.status == 422
    assert "Send a shorter text" in refused.value.sentence


def test_the_placeholder_may_be_one_past_the_vocabulary(spec: ModelSpec) -> None:
    """As in the original layout, where no token stands for a picture."""
    original = dataclasses.replace(spec, image_token_id=spec.language.vocab_size)
    request = submit(original, "a", num_images=1, length=4)
    assert max(request.token_ids) == spec.language.vocab_size
    assert admit(request, original, CONTEXT, 0.0)[0].num_tokens == len(request.token_ids)
    with pytest.raises(InvalidInput):
        admit(request, spec, CONTEXT, 0.0)


def test_choices_are_alike_but_for_their_seeds(spec: ModelSpec) -> None:
    (sequence,) = admit(submit(spec, "a", replace(GREEDY, num_choices=3, seed=5)), spec, CONTEXT, 0.0)
    assert [(one.choice, one.sampling.seed) for one in sequence.siblings] == [(1, 6), (2, 7)]
    assert all(one.state is SequenceState.EXPECTED for one in sequence.siblings)


def test_spans_are_where_the_placeholders_are(spec: ModelSpec) -> None:
    count = spec.vision.num_features
    (sequence,) = admit(submit(spec, "a", num_images=2, length=5), spec, CONTEXT, 3.0)
    assert [(span.start, span.end) for span in sequence.images] == [(1, 1 + count), (2 + count, 2 + 2 * count)]
    assert sequence.arrived_s == 3.0


def test_two_images_may_stand_side_by_side(spec: ModelSpec) -> None:
    count = spec.vision.num_features
    request = Submit("a", [1] + [spec.image_token_id] * 2 * count, [pixels(spec, seed, 2) for seed in (1, 2)], GREEDY)
    (sequence,) = admit(request, spec, CONTEXT, 0.0)
    assert [(span.start, span.end) for span in sequence.images] == [(1, 1 + count), (1 + count, 1 + 2 * count)]

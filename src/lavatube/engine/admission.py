"""Submit in, a Sequence out, or the error that refuses it: one request's bad data must never reach a step.

Out-of-range ids would read another row of memory, and a wrong number of placeholders would shift every token after it.
"""

from __future__ import annotations

import math

import msgspec

from lavatube.engine.sequence import ImageSpan, Sequence
from lavatube.engine.wire import Pixels, Sampling, Submit
from lavatube.errors import InvalidInput, PromptTooLong
from lavatube.spec import ModelSpec


def admit(submit: Submit, spec: ModelSpec, max_context_tokens: int, now_s: float) -> Sequence:
    """The checked request; its answer gets no longer than the cache holds beside the prompt.

    Raises: InvalidInput; PromptTooLong if not one token of an answer would fit.
    """
    token_ids = submit.token_ids
    if not token_ids:
        raise InvalidInput("The prompt has no tokens.", param="token_ids")
    if min(token_ids) < 0 or max(token_ids) >= spec.language.vocab_size:
        raise InvalidInput(f"A token id is outside the vocabulary of {spec.language.vocab_size}.", param="token_ids")
    _check_sampling(submit.sampling)
    room = max_context_tokens - len(token_ids)
    if room < 1:
        raise PromptTooLong(
            f"The prompt has {len(token_ids)} tokens; the engine holds {max_context_tokens} of one request.",
            remedy="Send a shorter text or fewer pictures.",
        )
    return Sequence(
        request_id=submit.request_id,
        token_ids=list(token_ids),
        num_prompt_tokens=len(token_ids),
        sampling=msgspec.structs.replace(submit.sampling, max_tokens=min(submit.sampling.max_tokens, room)),
        images=_spans(token_ids, submit.images, spec),
        arrived_s=now_s,
    )


def _check_sampling(sampling: Sampling) -> None:
    if sampling.max_tokens < 1:
        raise InvalidInput("max_tokens is below 1.", param="max_tokens")
    if not (math.isfinite(sampling.temperature) and sampling.temperature >= 0):
        raise InvalidInput("temperature is not a number from 0 on.", param="temperature")
    if not 0 <= sampling.top_p <= 1:
        raise InvalidInput("top_p is not between 0 and 1.", param="top_p")
    if sampling.top_k < 0:
        raise InvalidInput("top_k is below 0.", param="top_k")


def _spans(token_ids: list[int], images: list[Pixels], spec: ModelSpec) -> tuple[ImageSpan, ...]:
    """Each image with its run of placeholders, in order."""
    positions = [position for position, token_id in enumerate(token_ids) if token_id == spec.image_token_id]
    wanted = sum(pixels.num_tokens for pixels in images)
    if len(positions) != wanted:
        raise InvalidInput(f"The prompt has {len(positions)} image placeholders; its images need {wanted}.")
    spans = []
    taken = 0
    for pixels in images:
        _check_pixels(pixels, spec)
        start = positions[taken]
        taken += pixels.num_tokens
        end = positions[taken - 1] + 1
        if end - start != pixels.num_tokens:
            raise InvalidInput("The placeholders of an image are not in one piece.")
        spans.append(ImageSpan(start, end, pixels))
    return tuple(spans)


def _check_pixels(pixels: Pixels, spec: ModelSpec) -> None:
    size = spec.vision.image_size
    if pixels.size != size or pixels.tiles < 1 or len(pixels.data) != pixels.tiles * 3 * size * size:
        raise InvalidInput(f"An image is not made of squares of {size} pixels in RGB.")
    if pixels.num_tokens != pixels.tiles * spec.vision.num_features:
        raise InvalidInput(f"An image of {pixels.tiles} squares does not become {pixels.num_tokens} tokens.")

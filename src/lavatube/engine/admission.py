"""Submit in, Sequences out, or the error that refuses it: one request's bad data must never reach a step.

Out-of-range ids would read another row of memory, and a wrong number of placeholders would shift every token after it.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from lavatube.engine.prefix import image_key
from lavatube.engine.sequence import ImageSpan, Sequence
from lavatube.engine.wire import Pixels, Sampling, Submit
from lavatube.errors import InvalidInput, PromptTooLong
from lavatube.geometry import ImagePlan, plan_image
from lavatube.spec import ModelSpec

MAX_CHOICES: Final = 8
MAX_BIASES: Final = 1024
MAX_TOP_LOGPROBS: Final = 20
MAX_PENALTY: Final = 1e6


def admit(submit: Submit, spec: ModelSpec, max_context_tokens: int, now_s: float) -> list[Sequence]:
    """The checked request; its answer gets no longer than the cache holds beside the prompt.

    One sequence, which the other choices are siblings of; or, where answers go on that were begun elsewhere, one for
    each that is not over.

    Raises: InvalidInput; PromptTooLong if not one token of an answer would fit.
    """
    token_ids = submit.token_ids
    if not token_ids:
        raise InvalidInput("The prompt has no tokens.", param="token_ids")
    vocab_size = spec.language.vocab_size
    answers = _answers(submit)
    told = (token_id for answer in answers.values() for token_id in answer)
    strange = {token_id for token_id in token_ids if not 0 <= token_id < vocab_size} - {spec.image_token_id}
    if strange or not all(0 <= token_id < vocab_size for token_id in told):
        raise InvalidInput(f"A token id is outside the vocabulary of {vocab_size}.", param="token_ids")
    _check_sampling(submit.sampling, spec)
    room = max_context_tokens - len(token_ids)
    if room <= 0:
        raise PromptTooLong(
            f"The prompt has {len(token_ids)} tokens; the engine holds {max_context_tokens} of one request.",
            remedy="Send a shorter text or fewer pictures.",
        )
    sampling = msgspec.structs.replace(submit.sampling, max_tokens=min(submit.sampling.max_tokens, room))
    if any(len(answer) > sampling.max_tokens for answer in answers.values()):
        raise InvalidInput("The answer so far is longer than max_tokens.", param="begun")
    prompt = Sequence(
        request_id=submit.request_id,
        token_ids=list(token_ids),
        num_prompt_tokens=len(token_ids),
        sampling=sampling,
        images=_spans(submit, spec),
        salt=submit.salt,
        arrived_s=now_s,
    )
    if submit.begun:
        return [_answer(prompt, choice, begun) for choice, begun in answers.items()]
    prompt.siblings = [_answer(prompt, choice, []) for choice in range(1, sampling.num_choices)]
    return [prompt]


def _answers(submit: Submit) -> dict[int, list[int]]:
    """The tokens of each choice that was begun and goes on."""
    begun = submit.begun
    if begun and (len(begun) != submit.sampling.num_choices or all(answer is None for answer in begun)):
        raise InvalidInput("The answers so far are not those of the choices.", param="begun")
    return {choice: answer for choice, answer in enumerate(begun) if answer is not None}


def _answer(prompt: Sequence, choice: int, begun: list[int]) -> Sequence:
    """One answer to a prompt, as that seed would give it; the tokens in `begun` are there already."""
    return Sequence(
        request_id=prompt.request_id,
        token_ids=[*prompt.token_ids, *begun],
        num_prompt_tokens=prompt.num_prompt_tokens,
        sampling=msgspec.structs.replace(prompt.sampling, seed=prompt.sampling.seed + choice),
        images=prompt.images,
        salt=prompt.salt,
        choice=choice,
        arrived_s=prompt.arrived_s,
    )


def _check_sampling(sampling: Sampling, spec: ModelSpec) -> None:
    if sampling.max_tokens < 1:
        raise InvalidInput("max_tokens leaves no token to answer with.", param="max_tokens")
    if not (math.isfinite(sampling.temperature) and sampling.temperature >= 0):
        raise InvalidInput("temperature is not a number from 0 on.", param="temperature")
    if not 0 <= sampling.top_p <= 1:
        raise InvalidInput("top_p is not between 0 and 1.", param="top_p")
    if sampling.top_k < 0:
        raise InvalidInput("top_k is below 0.", param="top_k")
    if not 0 <= sampling.min_p <= 1:
        raise InvalidInput("min_p is not between 0 and 1.", param="min_p")
    if not 1 / MAX_PENALTY <= sampling.repetition_penalty <= MAX_PENALTY:
        raise InvalidInput("repetition_penalty is not a number above 0.", param="repetition_penalty")
    for name in ("presence_penalty", "frequency_penalty"):
        if not abs(getattr(sampling, name)) <= MAX_PENALTY:
            raise InvalidInput(f"{name} is not a number of that size.", param=name)
    _check_biases(sampling, spec.language.vocab_size)
    if not 0 <= sampling.min_tokens <= sampling.max_tokens:
        raise InvalidInput("min_tokens is not between 0 and max_tokens.", param="min_tokens")
    if sampling.min_tokens and sampling.grammar:
        raise InvalidInput("A grammar says itself when an answer may end; min_tokens can't.", param="min_tokens")
    if not 0 <= (sampling.top_logprobs or 0) <= MAX_TOP_LOGPROBS:
        raise InvalidInput(f"top_logprobs is not between 0 and {MAX_TOP_LOGPROBS}.", param="top_logprobs")
    if not 1 <= sampling.num_choices <= MAX_CHOICES:
        raise InvalidInput(f"The number of choices is not between 1 and {MAX_CHOICES}.", param="n")


def _check_biases(sampling: Sampling, vocab_size: int) -> None:
    ids = [token_id for token_id, _ in sampling.logit_bias]
    if len(ids) > MAX_BIASES or len(set(ids)) < len(ids):
        raise InvalidInput(f"logit_bias names more than {MAX_BIASES} tokens, or one twice.", param="logit_bias")
    if not all(0 <= token_id < vocab_size for token_id in ids):
        raise InvalidInput(
            f"logit_bias names a token outside the vocabulary of {vocab_size}.",
            param="logit_bias",
            remedy="Take ids from the model's tokenizer.",
        )
    if not all(math.isfinite(bias) and abs(bias) <= MAX_PENALTY for _, bias in sampling.logit_bias):
        raise InvalidInput("logit_bias holds something that is no number of that size.", param="logit_bias")


def _spans(submit: Submit, spec: ModelSpec) -> tuple[ImageSpan, ...]:
    """Each image with its run of placeholders, in order."""
    token_ids, images = submit.token_ids, submit.images
    positions = [position for position, token_id in enumerate(token_ids) if token_id == spec.image_token_id]
    wanted = sum(pixels.num_tokens for pixels in images)
    if len(positions) != wanted:
        raise InvalidInput(f"The prompt has {len(positions)} image placeholders; its images need {wanted}.")
    spans = []
    taken = 0
    for pixels in images:
        plan = _checked_plan(pixels, len(images), spec)
        start = positions[taken]
        taken += pixels.num_tokens
        end = positions[taken - 1] + 1
        if end - start != pixels.num_tokens:
            raise InvalidInput("The placeholders of an image are not in one piece.")
        spans.append(ImageSpan(start, end, pixels, plan, image_key(submit.salt, pixels, plan)))
    return tuple(spans)


def _checked_plan(pixels: Pixels, num_images: int, spec: ModelSpec) -> ImagePlan:
    """How the picture is laid out, which its pixels must fit."""
    size = spec.vision.image_size
    if pixels.size != size or pixels.tiles < 1 or len(pixels.data) != pixels.tiles * 3 * size * size:
        raise InvalidInput(f"An image is not made of squares of {size} pixels in RGB.")
    if pixels.num_images != num_images or min(pixels.width, pixels.height) < 1:
        raise InvalidInput("An image was prepared for another prompt.")
    plan = plan_image(spec, pixels.width, pixels.height, num_images=num_images, detail=pixels.detail)
    if (pixels.tiles, pixels.num_tokens) != (plan.tiles, plan.num_tokens):
        raise InvalidInput(
            f"An image of {pixels.width}×{pixels.height} becomes {plan.num_tokens} tokens from {plan.tiles} squares, "
            f"not {pixels.num_tokens} from {pixels.tiles}."
        )
    return plan

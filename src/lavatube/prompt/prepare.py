"""A Chat in, a Prepared out: what the engine needs, and nothing it could choke on.

Cheap refusals come first: nothing is fetched or decoded for a conversation that could not be answered anyway. Blocking
and thread-safe; the front calls it in a thread. Knows no engine and no HTTP status.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from lavatube.engine.wire import Pixels, Sampling
from lavatube.errors import InvalidInput, PromptTooLong, UnsupportedCheckpoint
from lavatube.geometry import ImagePlan
from lavatube.prompt.chat import Chat, Generation, Part, Text
from lavatube.prompt.conversations import conversation
from lavatube.prompt.decoder import ImageDecoder
from lavatube.prompt.fetch import UrlGate
from lavatube.prompt.images import ImageLimits, Reading
from lavatube.prompt.pictures import Pictures
from lavatube.prompt.structure import GrammarBuilder
from lavatube.prompt.template import BuiltIn, JinjaTemplate, Template
from lavatube.prompt.tokenizer import Tokenizer, TokenizerRules
from lavatube.spec import ModelSpec

MAX_STOP_STRINGS: Final = 16
MAX_STOP_CHARS: Final = 256
_IMAGE_START: Final = "<im_start>"
_IMAGE_END: Final = "<im_end>"


@dataclass(frozen=True, slots=True)
class Prepared:
    """One request, ready to submit. `prompt_tokens` counts all of `token_ids`, `image_tokens` those of pictures."""

    token_ids: list[int]
    images: tuple[Pixels, ...]
    sampling: Sampling
    stop: tuple[str, ...]
    prompt_tokens: int
    image_tokens: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a conversation costs before it is sent. `images` are in the order of the chat's."""

    text_tokens: int
    images: tuple[ImagePlan, ...]
    context_tokens: int

    @property
    def image_tokens(self) -> int:
        return sum(plan.num_tokens for plan in self.images)

    @property
    def prompt_tokens(self) -> int:
        return self.text_tokens + self.image_tokens

    @property
    def room_tokens(self) -> int:
        """For the answer; none where the prompt is too long."""
        return max(0, self.context_tokens - self.prompt_tokens)


class Preparer:
    """Everything between a conversation and the engine, for one checkpoint.

    Without a `gate`, pictures come as bytes and data: URLs only. Closing it ends the children of `decoder`, too.
    """

    def __init__(
        self,
        spec: ModelSpec,
        folder: Path,
        limits: ImageLimits,
        gate: UrlGate | None,
        decoder: ImageDecoder,
        reading: Reading = "person",
    ) -> None:
        self._spec = spec
        self._pictures = Pictures(spec, limits, gate, decoder, reading)
        self.tokenizer = Tokenizer(folder, spec.stop_token_ids, _rules(spec))
        # The original's code gives the model rows for tokens that were added later; no prompt of ours asks for one.
        if self.tokenizer.vocabulary.size > spec.language.vocab_size and spec.layout != "original":
            raise UnsupportedCheckpoint(
                f"{spec.tokenizer_file} has ids up to {self.tokenizer.vocabulary.size - 1}, but the model's vocabulary "
                f"ends at {spec.language.vocab_size - 1} (vocab_size of config.json)."
            )
        self._template = _template(spec, self.tokenizer)
        self._grammars = GrammarBuilder(may_begin_with_space=self.tokenizer.vocabulary.num_stripped_spaces > 0)
        self._stop_token_ids, self._stop_strings = _stops(spec, self.tokenizer)
        self._context_tokens = spec.language.max_positions

    def limit_context(self, tokens: int) -> None:
        """Take no more than this: an engine's cache may hold less than the model was trained for."""
        self._context_tokens = min(tokens, self._context_tokens)

    def prepare(self, chat: Chat, generation: Generation) -> Prepared:
        """Fetch, decode, render, tokenise and check one conversation.

        Raises: RequestErrors, with the field at fault where the chat says it; Overloaded.
        """
        images = chat.images
        self._pictures.check_number(images)
        _check_stop(generation.stop)
        grammar = "" if generation.structure is None else self._grammars.build(generation.structure)
        template_ids = self._tokenise(chat)
        self._check_length(len(template_ids) - len(images), 0)
        pixels = self._pictures.read(images)
        token_ids = self._expand(template_ids, pixels)
        image_tokens = sum(image.num_tokens for image in pixels)
        room = self._check_length(len(token_ids) - image_tokens, image_tokens)
        return Prepared(
            token_ids=token_ids,
            images=pixels,
            sampling=self._sampling(generation, grammar, room),
            stop=(*generation.stop, *self._stop_strings),
            prompt_tokens=len(token_ids),
            image_tokens=image_tokens,
        )

    def estimate(self, chat: Chat, sizes: Sequence[tuple[int, int]]) -> Estimate:
        """What `prepare` would count, for pictures of which only (width, height) is known yet, upright.

        Raises: RequestErrors, as `prepare` would; but a prompt that is too long is counted, too.
        """
        images = chat.images
        self._pictures.check_number(images)
        plans = self._pictures.plan(images, sizes)
        text_tokens = len(self._tokenise(chat)) - len(images)
        return Estimate(text_tokens, plans, self._context_tokens)

    def close(self) -> None:
        """End the children that decode and render."""
        self._grammars.close()
        self._template.close()
        self._pictures.close()

    def _tokenise(self, chat: Chat) -> list[int]:
        """The ids of the rendered conversation, one placeholder a picture."""
        if not chat.turns:
            raise InvalidInput("The conversation is empty.", remedy="Send at least one message.")
        texts = [part.text for turn in chat.turns for part in turn.parts if isinstance(part, Text)]
        self._check_texts(texts)
        ids = self.tokenizer.encode_prompt(self._template.render(_shield(chat, self.tokenizer)))
        placed = ids.count(self._spec.image_token_id)
        if placed != len(chat.images):
            raise InvalidInput(
                f"The model's chat template places {placed} of the {len(chat.images)} pictures.",
                remedy="Put the pictures into the user's messages.",
            )
        return ids

    def _check_texts(self, texts: Sequence[str]) -> None:
        """Refuse what can't be encoded, and what is so long that encoding it would only cost time."""
        try:
            size_bytes = sum(len(text.encode()) for text in texts)
        except UnicodeEncodeError:
            raise InvalidInput(
                "The text holds half of a surrogate pair, which is no character.", remedy="Send whole characters."
            ) from None
        at_least = size_bytes // self.tokenizer.vocabulary.longest_piece_bytes
        if at_least > self._context_tokens:
            raise PromptTooLong(
                f"The prompt has at least {at_least} tokens; the context holds {self._context_tokens}.",
                remedy="Send a shorter one.",
            )

    def _check_length(self, text_tokens: int, image_tokens: int) -> int:
        """How many tokens are left for the answer, at least one. Raises PromptTooLong."""
        context = self._context_tokens
        total = text_tokens + image_tokens
        if total + 1 > context:
            pictures = f" ({image_tokens} of them for pictures)" if image_tokens else ""
            raise PromptTooLong(
                f"The prompt has {total} tokens{pictures}; the context holds {context}, one of them for the answer.",
                remedy="Send a shorter text or fewer pictures.",
            )
        return context - total

    def _expand(self, template_ids: Sequence[int], pixels: Sequence[Pixels]) -> list[int]:
        """Each placeholder repeated as often as its picture has tokens."""
        counts = iter(pixels)
        token_ids: list[int] = []
        for token_id in template_ids:
            is_image = token_id == self._spec.image_token_id
            token_ids.extend([token_id] * (next(counts).num_tokens if is_image else 1))
        return token_ids

    def _sampling(self, generation: Generation, grammar: str, room: int) -> Sampling:
        max_tokens = room if generation.max_tokens is None else min(generation.max_tokens, room)
        return Sampling(
            max_tokens=max_tokens,
            temperature=generation.temperature,
            top_p=generation.top_p,
            top_k=generation.top_k,
            seed=secrets.randbits(31) if generation.seed is None else generation.seed,
            stop_token_ids=self._stop_token_ids,
            min_p=generation.min_p,
            repetition_penalty=generation.repetition_penalty,
            presence_penalty=generation.presence_penalty,
            frequency_penalty=generation.frequency_penalty,
            logit_bias=generation.logit_bias,
            min_tokens=min(generation.min_tokens, max_tokens),
            top_logprobs=generation.top_logprobs,
            num_choices=generation.num_choices,
            grammar=grammar,
        )


def _rules(spec: ModelSpec) -> TokenizerRules:
    return TokenizerRules(
        kind=spec.tokenizer,
        is_legacy=spec.is_legacy_tokenizer,
        is_chunked=spec.fidelity == "original",
        image_token_id=spec.image_token_id,
    )


def _template(spec: ModelSpec, tokenizer: Tokenizer) -> Template:
    picture = tokenizer.image_text
    if spec.image_token_id < spec.language.vocab_size and not tokenizer.token(spec.image_token_id):
        raise UnsupportedCheckpoint(
            f"{spec.tokenizer_file} has no token {spec.image_token_id}, which config.json calls image."
        )
    if spec.has_image_marks:
        marks = (tokenizer.control_id(mark) for mark in (_IMAGE_START, _IMAGE_END))
        if not all(mark is not None and mark < spec.language.vocab_size for mark in marks):
            raise UnsupportedCheckpoint(
                f"config.json: mm_use_im_start_end is set, but the tokenizer or the model has no {_IMAGE_START} and "
                f"{_IMAGE_END}."
            )
        picture = f"{_IMAGE_START}{picture}{_IMAGE_END}"
    if spec.template is None:
        return BuiltIn(conversation(spec.builtin_template), picture)
    return JinjaTemplate(spec.template, picture, tokenizer.named_tokens, file=spec.template_file)


def _stops(spec: ModelSpec, tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The ids and the strings that end an answer: the checkpoint's, and the end of a turn of a built-in template."""
    ids, strings = list(spec.stop_token_ids), list(spec.stop_strings)
    if spec.template is None:
        stop = conversation(spec.builtin_template).stop
        token_id = tokenizer.control_id(stop)
        if token_id is None or token_id >= spec.language.vocab_size:
            strings.append(stop)
        else:
            ids.append(token_id)
    return tuple(dict.fromkeys(ids)), tuple(dict.fromkeys(strings))


def _shield(chat: Chat, tokenizer: Tokenizer) -> Chat:
    def part(part: Part) -> Part:
        return Text(tokenizer.shield(part.text)) if isinstance(part, Text) else part

    return Chat(tuple(replace(turn, parts=tuple(map(part, turn.parts))) for turn in chat.turns))


def _check_stop(stop: Sequence[str]) -> None:
    if len(stop) > MAX_STOP_STRINGS:
        raise InvalidInput(
            f"There are {len(stop)} stop strings; {MAX_STOP_STRINGS} are allowed.", param="stop", remedy="Send fewer."
        )
    if any(not 0 < len(string) <= MAX_STOP_CHARS for string in stop):
        raise InvalidInput(
            f"A stop string has 1 to {MAX_STOP_CHARS} characters.", param="stop", remedy="Send a shorter one, or none."
        )

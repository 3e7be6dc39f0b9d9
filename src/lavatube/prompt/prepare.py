"""A Chat in, a Prepared out: what the engine needs, and nothing it could choke on.

Cheap refusals come first: nothing is fetched or decoded for a conversation that could not be answered anyway. Blocking
and thread-safe; the front calls it in a thread. Knows no engine and no HTTP status.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from lavatube.engine.wire import Pixels, Sampling
from lavatube.errors import (
    ForbiddenImageUrl,
    ImageRejected,
    InvalidImageUrl,
    InvalidInput,
    PromptTooLong,
    TooManyImages,
    UnsupportedCheckpoint,
)
from lavatube.prompt.chat import Chat, Generation, ImageInput, Part, Text
from lavatube.prompt.data_url import decode_data_url
from lavatube.prompt.decoder import Decoded, ImageDecoder
from lavatube.prompt.fetch import UrlGate
from lavatube.prompt.images import ImageLimits
from lavatube.prompt.template import JinjaTemplate, LlavaV1, Template
from lavatube.prompt.tokenizer import Tokenizer
from lavatube.spec import ModelSpec

MAX_STOP_STRINGS: Final = 16
MAX_STOP_CHARS: Final = 256
# Part of every image digest: raise it when the same picture gives other pixels.
PREPROCESS_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Prepared:
    """One request, ready to submit. `prompt_tokens` counts all of `token_ids`, `image_tokens` those of pictures."""

    token_ids: list[int]
    images: tuple[Pixels, ...]
    sampling: Sampling
    stop: tuple[str, ...]
    prompt_tokens: int
    image_tokens: int


class Preparer:
    """Everything between a conversation and the engine, for one checkpoint.

    Without a `gate`, pictures come as bytes and data: URLs only. Closing it ends the children of `decoder`, too.
    """

    def __init__(
        self, spec: ModelSpec, folder: Path, limits: ImageLimits, gate: UrlGate | None, decoder: ImageDecoder
    ) -> None:
        self._spec = spec
        self._limits = limits
        self._gate = gate
        self._decoder = decoder
        self.tokenizer = Tokenizer(folder, {spec.image_token_id, *spec.stop_token_ids})
        if self.tokenizer.vocabulary.size > spec.language.vocab_size:
            raise UnsupportedCheckpoint(
                f"tokenizer.json has ids up to {self.tokenizer.vocabulary.size - 1}, but the model's vocabulary ends "
                f"at {spec.language.vocab_size - 1}."
            )
        self._template = _template(spec, self.tokenizer)
        self._context_tokens = spec.language.max_positions

    def limit_context(self, tokens: int) -> None:
        """Take no more than this: an engine's cache may hold less than the model was trained for."""
        self._context_tokens = min(tokens, self._context_tokens)

    def prepare(self, chat: Chat, generation: Generation) -> Prepared:
        """Fetch, decode, render, tokenise and check one conversation.

        Raises: RequestErrors, with the field at fault where the chat says it; Overloaded.
        """
        images = chat.images
        if len(images) > self._limits.max_images:
            raise TooManyImages(
                f"The request has {len(images)} pictures; {self._limits.max_images} are allowed.",
                param=images[self._limits.max_images].param,
                remedy="Send fewer.",
            )
        _check_stop(generation.stop)
        template_ids = self._tokenise(chat)
        self._check_length(len(template_ids) - len(images), 0)
        pixels = self._pixels(images)
        token_ids = self._expand(template_ids, pixels)
        image_tokens = sum(image.num_tokens for image in pixels)
        room = self._check_length(len(token_ids) - image_tokens, image_tokens)
        return Prepared(
            token_ids=token_ids,
            images=pixels,
            sampling=self._sampling(generation, room),
            stop=generation.stop,
            prompt_tokens=len(token_ids),
            image_tokens=image_tokens,
        )

    def close(self) -> None:
        """End the children that decode and render."""
        self._template.close()
        self._decoder.close()

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
            raise InvalidInput("The text holds half of a surrogate pair, which is no character.") from None
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

    def _pixels(self, images: Sequence[ImageInput]) -> tuple[Pixels, ...]:
        """All pictures, fetched and decoded side by side."""
        if len(images) < 2:
            return tuple(map(self._picture, images))
        with ThreadPoolExecutor(len(images), thread_name_prefix="picture") as threads:
            return tuple(threads.map(self._picture, images))

    def _picture(self, image: ImageInput) -> Pixels:
        try:
            decoded = self._decoder.decode(self._read(image.source), self._spec.pixels, self._limits)
        except ImageRejected as error:
            error.param = image.param
            raise
        return Pixels(
            digest=_digest(decoded),
            data=decoded.data,
            tiles=decoded.tiles,
            size=decoded.size,
            num_tokens=self._spec.num_image_tokens(decoded.width, decoded.height),
        )

    def _read(self, source: bytes | str) -> bytes:
        if isinstance(source, bytes):
            return source
        if not source:
            raise InvalidImageUrl("The picture is empty.", remedy="Send a data: URL, or an http or https URL.")
        if source[:5].lower() == "data:":
            return decode_data_url(source, self._limits.max_bytes)
        if self._gate is None:
            raise ForbiddenImageUrl(
                "This server fetches no pictures.", remedy="Send the picture itself as a data: URL."
            )
        return self._gate.fetch(source)

    def _expand(self, template_ids: Sequence[int], pixels: Sequence[Pixels]) -> list[int]:
        """Each placeholder repeated as often as its picture has tokens."""
        counts = iter(pixels)
        token_ids: list[int] = []
        for token_id in template_ids:
            is_image = token_id == self._spec.image_token_id
            token_ids.extend([token_id] * (next(counts).num_tokens if is_image else 1))
        return token_ids

    def _sampling(self, generation: Generation, room: int) -> Sampling:
        return Sampling(
            max_tokens=room if generation.max_tokens is None else min(generation.max_tokens, room),
            temperature=generation.temperature,
            top_p=generation.top_p,
            top_k=generation.top_k,
            seed=secrets.randbits(31) if generation.seed is None else generation.seed,
            stop_token_ids=self._spec.stop_token_ids,
        )


def _template(spec: ModelSpec, tokenizer: Tokenizer) -> Template:
    image_token = tokenizer.token(spec.image_token_id)
    if not image_token:
        raise UnsupportedCheckpoint(
            f"tokenizer.json has no token {spec.image_token_id}, which config.json calls image."
        )
    if spec.chat_template is None:
        return LlavaV1(image_token, tokenizer.named_tokens.get("eos_token", "</s>"))
    return JinjaTemplate(spec.chat_template, image_token, tokenizer.named_tokens)


def _shield(chat: Chat, tokenizer: Tokenizer) -> Chat:
    def part(part: Part) -> Part:
        return Text(tokenizer.shield(part.text)) if isinstance(part, Text) else part

    return Chat(tuple(replace(turn, parts=tuple(map(part, turn.parts))) for turn in chat.turns))


def _check_stop(stop: Sequence[str]) -> None:
    if len(stop) > MAX_STOP_STRINGS:
        raise InvalidInput(f"There are {len(stop)} stop strings; {MAX_STOP_STRINGS} are allowed.", param="stop")
    if any(not 0 < len(string) <= MAX_STOP_CHARS for string in stop):
        raise InvalidInput(f"A stop string has 1 to {MAX_STOP_CHARS} characters.", param="stop")


def _digest(decoded: Decoded) -> bytes:
    """Names what the tower sees. Shape and version are in it: other pixels of the same bytes have another name."""
    head = f"lavatube pixels {PREPROCESS_VERSION} {decoded.tiles}x3x{decoded.size}x{decoded.size}\n"
    return hashlib.sha256(head.encode() + decoded.data).digest()

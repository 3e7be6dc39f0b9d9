"""Small real stand-ins for the two neighbours of a prediction: a preparer with a real tokenizer, an engine that echoes.

The engine answers with the prompt's own ids, again and again up to `max_tokens`, at a chosen pace; a few prompts ask
for trouble instead.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from lavatube.engine.wire import Done, Failed, Logprobs, Ready, RequestEvent, Sampling, Submit, Tokens
from lavatube.errors import EngineCrashed, ImageFetchFailed, ImageRejected, InvalidImageUrl, PromptTooLong
from lavatube.geometry import Cut, ImagePlan
from lavatube.prompt.chat import Chat, Generation, Text
from lavatube.prompt.prepare import Estimate, Prepared
from lavatube.prompt.tokenizer import Tokenizer

START_ID = 0
STOP_ID = 1
IMAGE_TOKENS = 4
MAX_PROMPT_TOKENS = 2000
PNG = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n and so on").decode()

CRASH = "crash now"
FAIL = "fail now"
CRASH_LATER = "crash in the middle"
SLOW_PREPARE = "prepare slowly"
DEFECT = "meet a defect"
PASSING_FAILURE = "fail once"


def write_tokenizer(folder: Path) -> Path:
    """A byte-level tokenizer: one id a byte, after three control tokens."""
    names = ["<s>", "</s>", "<image>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {name: index for index, name in enumerate([*names, *letters])}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(names)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


class EchoPreparer:
    """Takes data URLs that are base64; the last turn's text is the prompt."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = Tokenizer(write_tokenizer(folder), {STOP_ID})
        self.num_prepared = 0
        self.num_failures = 1

    def prepare(self, chat: Chat, generation: Generation) -> Prepared:
        text = "".join(part.text for part in chat.turns[-1].parts if isinstance(part, Text))
        if text == SLOW_PREPARE:
            time.sleep(0.5)
        if text == PASSING_FAILURE and self.num_failures > 0:
            self.num_failures -= 1
            raise ImageFetchFailed("The picture's server is down.", param="image", remedy="Try again.")
        if text == DEFECT:
            raise ZeroDivisionError("a secret of the server")
        for image in chat.images:
            self._check(str(image.source), image.param)
        token_ids = self.tokenizer.encode(text) or [START_ID]  # as of a template, which is never empty
        if len(token_ids) > MAX_PROMPT_TOKENS:
            raise PromptTooLong(f"The prompt has {len(token_ids)} tokens.", remedy="Send a shorter one.")
        self.num_prepared += 1
        image_tokens = IMAGE_TOKENS * len(chat.images)
        max_tokens = MAX_PROMPT_TOKENS if generation.max_tokens is None else generation.max_tokens
        return Prepared(
            token_ids=token_ids,
            images=(),
            sampling=Sampling(
                max_tokens=max_tokens,
                seed=generation.seed or 0,
                top_logprobs=generation.top_logprobs,
                num_choices=generation.num_choices,
            ),
            stop=generation.stop,
            prompt_tokens=len(token_ids) + image_tokens,
            image_tokens=image_tokens,
        )

    def estimate(self, chat: Chat, sizes: Sequence[tuple[int, int]]) -> Estimate:
        texts = [part.text for turn in chat.turns for part in turn.parts if isinstance(part, Text)]
        cut = Cut("stretch", 1, 1, 1, (2, 2), (0, 0))
        plan = ImagePlan(cut, False, 2, 2, (0, 0, 2, 2), None, 0, IMAGE_TOKENS)
        return Estimate(len(self.tokenizer.encode("".join(texts))), (plan,) * len(sizes), MAX_PROMPT_TOKENS)

    def _check(self, source: str, param: str) -> None:
        head, _, data = source.partition(",")
        if not head.lower().startswith("data:"):
            raise InvalidImageUrl("The picture's URL is no data: URL.", param=param, remedy="Send one.")
        try:
            base64.b64decode(data, validate=True)
        except binascii.Error:
            raise ImageRejected("The picture is not base64.", param=param) from None


class EchoEngine:
    """Answers with the prompt's ids; counts what was asked of it."""

    def __init__(self, token_s: float = 0.0) -> None:
        self.token_s = token_s
        self.num_tokens = 0
        self.submitted: list[Submit] = []
        self.aborted: list[str] = []
        self.failure: EngineCrashed | None = None
        self.num_crashes_left = 1 << 30
        self._crash: EngineCrashed | None = None
        self.aborted_choices: list[tuple[str, int]] = []
        self.running: set[str] = set()
        self._ids: dict[str, tuple[int, ...]] = {}

    def knows(self, preparer: EchoPreparer) -> EchoEngine:
        """Learn how the prompts that ask for trouble are spelled."""
        self._ids = {text: tuple(preparer.tokenizer.encode(text)) for text in (CRASH, FAIL, CRASH_LATER)}
        return self

    async def wait_ready(self) -> Ready:
        """It is back at once, unless it has `failure`."""
        if self.failure is not None:
            raise self.failure
        return Ready("cpu", "float32", 0.0, 1, 1)

    async def submit(self, request: Submit) -> AsyncGenerator[RequestEvent, None]:
        self.submitted.append(request)
        self.running.add(request.request_id)
        try:
            async for event in self._events(request):
                yield event
        except (GeneratorExit, asyncio.CancelledError):
            self.aborted.append(request.request_id)
            raise
        finally:
            self.running.discard(request.request_id)

    def abort_choice(self, request_id: str, choice: int) -> None:
        self.aborted_choices.append((request_id, choice))

    async def _events(self, request: Submit) -> AsyncGenerator[RequestEvent, None]:
        ids = tuple(request.token_ids)
        if ids == self._ids.get(CRASH):
            raise self._die()
        if ids == self._ids.get(FAIL):
            yield Failed(request.request_id, "engine_numerical_error", "The model's numbers are not finite.")
            return
        sampling = request.sampling
        begun = len(request.begun[0] or []) if request.begun else 0
        crash = self._crash
        for position in range(begun, sampling.max_tokens):
            await asyncio.sleep(self.token_s)
            if position == 5 and self.num_crashes_left and ids == self._ids.get(CRASH_LATER):
                self.num_crashes_left -= 1
                raise self._die()
            if self._crash is not crash:
                raise self._crash or AssertionError
            for choice in range(sampling.num_choices):
                self.num_tokens += 1
                yield self._tokens(request, position, choice)
        num = sampling.max_tokens
        for choice in range(sampling.num_choices):
            num_left = sampling.num_choices - choice - 1
            yield Done(request.request_id, "length", len(ids), 1, num, 0.0, 0.0, 0.0, choice, num_left)

    def _die(self) -> EngineCrashed:
        """All that run are told of it, by the same object."""
        self._crash = EngineCrashed("The engine ended.", remedy="Try again.")
        return self._crash

    def _tokens(self, request: Submit, position: int, choice: int) -> Tokens:
        """Each choice begins one token later in the prompt; the next id is the second likeliest of two."""
        ids = request.token_ids
        token_id, other = (ids[(position + choice + ahead) % len(ids)] for ahead in (0, 1))
        top_logprobs = request.sampling.top_logprobs
        top = [(token_id, -0.5), (other, -1.5)][:top_logprobs]
        logprobs = [] if top_logprobs is None else [Logprobs(-0.5, top)]
        return Tokens(request.request_id, position, [token_id], choice, logprobs)

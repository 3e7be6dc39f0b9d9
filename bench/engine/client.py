"""One question over OpenAI's streaming API, as a client sees its answer: which is how every engine is asked."""

from __future__ import annotations

import base64
import io
import json
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import httpx
import msgspec
from PIL import Image


@dataclass(frozen=True, slots=True)
class Question:
    """A picture of noise, by its number, and as many words as a short question has."""

    picture: int
    text: str
    max_tokens: int
    picture_size: int

    def body(self) -> dict[str, object]:
        noise = random.Random(self.picture).randbytes(3 * self.picture_size**2)
        file = io.BytesIO()
        Image.frombytes("RGB", (self.picture_size, self.picture_size), noise).save(file, "PNG")
        url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": self.text}]
        return {
            "model": "bench",
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


@dataclass(slots=True)
class Answer:
    """When the question was sent and each piece of text came, by one clock; the tokens that were computed for it.

    Once it is no longer wanted, its client hangs up.
    """

    asked_s: float
    pieces_s: list[float] = field(default_factory=list)
    num_tokens: int = 0
    error: str = ""
    is_wanted: bool = True

    @property
    def first_s(self) -> float:
        """Time to the first text."""
        return self.pieces_s[0] - self.asked_s

    @property
    def tokens_per_s(self) -> float:
        """After the first text. An engine that holds text back gives several tokens in a piece."""
        return (self.num_tokens - 1) / (self.pieces_s[-1] - self.pieces_s[0])

    @property
    def gaps_s(self) -> list[float]:
        return [later - earlier for earlier, later in pairwise(self.pieces_s)]


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta


class _Usage(msgspec.Struct):
    completion_tokens: int


class _Chunk(msgspec.Struct):
    """What is looked at of a piece of a streamed answer."""

    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: object = None


_decoder = msgspec.json.Decoder(_Chunk)


def ask(url: str, question: Question, answer: Answer | None = None) -> Answer:
    """Wait for the whole answer; `answer`, if given, shows it as it grows. Raises: AssertionError if there is none."""
    body = json.dumps(question.body())
    answer = answer or Answer(0.0)
    answer.asked_s = time.monotonic()
    headers = {"Content-Type": "application/json"}
    with httpx.stream("POST", f"{url}/v1/chat/completions", content=body, headers=headers, timeout=1200) as response:
        if response.status_code != 200:
            raise AssertionError(f"status {response.status_code}: {response.read().decode()[:500]}")
        for line in response.iter_lines():
            if not answer.is_wanted:
                break
            if line.startswith("data: {"):
                _read(_decoder.decode(line[6:]), answer)
    assert answer.pieces_s, "an answer without text"
    return answer


def _read(chunk: _Chunk, answer: Answer) -> None:
    assert chunk.error is None, f"{chunk.error}"
    if any(choice.delta.content for choice in chunk.choices):
        answer.pieces_s.append(time.monotonic())
    if chunk.usage is not None:
        answer.num_tokens = chunk.usage.completion_tokens


def ask_all(url: str, questions: Sequence[Question], delays_s: Sequence[float] = ()) -> list[Answer]:
    """All at once, or each after its delay; every one in a thread."""
    answers = [Answer(0.0) for _ in questions]

    def wait_and_ask(index: int) -> None:
        time.sleep(delays_s[index] if delays_s else 0.0)
        try:
            ask(url, questions[index], answers[index])
        except (AssertionError, httpx.HTTPError) as error:
            answers[index].error = repr(error)

    threads = [threading.Thread(target=wait_and_ask, args=(index,)) for index in range(len(questions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    failed = [answer.error for answer in answers if answer.error]
    assert not failed, failed[0]
    return answers

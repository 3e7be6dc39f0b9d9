"""A prediction in OpenAI's words, whole or chunk by chunk. Pure: values in, values out.

Source: openai-python 3.57, types/chat/chat_completion.py and chat_completion_chunk.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from lavatube.errors import Conflict, LavatubeError
from lavatube.predictions.events import Output, Status, TokenLogprob, Usage
from lavatube.predictions.prediction import Prediction
from lavatube.serve.dialects import dump_text, openai_body
from lavatube.serve.openai_logprobs import with_top
from lavatube.serve.sse import TEXT, frame, raw_frame, template

DONE: Final = raw_frame(b"[DONE]")


@dataclass(frozen=True, slots=True)
class ChatView:
    """One prediction, with each of its answers as a choice."""

    prediction: Prediction
    model: str
    includes_usage: bool
    has_logprobs: bool
    _deltas: dict[int, bytes] = field(default_factory=dict)  # by choice, templates

    @property
    def error(self) -> LavatubeError | None:
        """Why there is no whole answer."""
        if self.prediction.status is Status.CANCELED:
            return Conflict("The completion was cancelled.", remedy="Send it again, if it is still wanted.")
        return self.prediction.error

    def completion(self) -> dict[str, object]:
        choices = [self._choice(choice) for choice in range(self.prediction.num_choices)]
        return self._head("chat.completion") | {"choices": choices, "usage": _usage(self.prediction.usage)}

    def opening(self, choice: int) -> bytes:
        return self._chunk(choice, {"role": "assistant", "content": ""})

    def delta(self, output: Output) -> bytes:
        if self.has_logprobs:
            return self._chunk(output.choice, {"content": output.text}, logprobs=self._logprobs(output.logprobs))
        if output.choice not in self._deltas:
            self._deltas[output.choice] = self._chunk(output.choice, {"content": TEXT}, make=template)
        return self._deltas[output.choice] % dump_text(output.text)

    def choice_ending(self, choice: int) -> list[bytes]:
        """The last chunk of an answer, and before it the first, if there was none."""
        opening = [] if self.prediction.log.pieces(choice) else [self.opening(choice)]
        return [*opening, self._chunk(choice, {}, self.prediction.finish_reasons[choice])]

    def ending(self, *, is_open: bool) -> list[bytes]:
        """The last frames. Raises the prediction's error when nothing was sent yet: then it is a status."""
        if (error := self.error) is not None:
            if not is_open:
                raise error
            return [frame(openai_body(error))]
        last = self.choice_ending(0) if self.prediction.num_choices == 1 else []
        usage = [self._usage_chunk()] if self.includes_usage else []
        return [*last, *usage, DONE]

    def _choice(self, choice: int) -> dict[str, object]:
        pieces = self.prediction.log.pieces(choice)
        text = "".join(piece.text for piece in pieces)
        return {
            "index": choice,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": self._logprobs(logprob for piece in pieces for logprob in piece.logprobs),
            "finish_reason": self.prediction.finish_reasons[choice],
        }

    def _logprobs(self, logprobs: Iterable[TokenLogprob]) -> dict[str, object] | None:
        if not self.has_logprobs:
            return None
        return {"content": [with_top(logprob) for logprob in logprobs], "refusal": None}

    def _chunk(
        self,
        choice: int,
        delta: dict[str, str],
        finish_reason: str | None = None,
        logprobs: dict[str, object] | None = None,
        make: Callable[[object], bytes] = frame,
    ) -> bytes:
        one = {"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        usage: dict[str, object] = {"usage": None} if self.includes_usage else {}
        return make(self._head("chat.completion.chunk") | {"choices": [one]} | usage)

    def _usage_chunk(self) -> bytes:
        return frame(self._head("chat.completion.chunk") | {"choices": [], "usage": _usage(self.prediction.usage)})

    def _head(self, kind: str) -> dict[str, object]:
        return {
            "id": f"chatcmpl-{self.prediction.id}",
            "object": kind,
            "created": int(self.prediction.created_at.timestamp()),
            "model": self.model,
        }


def _usage(usage: Usage) -> dict[str, object]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "image_tokens": usage.image_tokens},
    }

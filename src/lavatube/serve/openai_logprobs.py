"""Probabilities of tokens in OpenAI's words, which both of its ways to answer share. Pure: values in, values out."""

from __future__ import annotations

from lavatube.predictions.events import TokenLogprob


def with_top(logprob: TokenLogprob) -> dict[str, object]:
    return _alone(logprob) | {"top_logprobs": [_alone(other) for other in logprob.top]}


def _alone(logprob: TokenLogprob) -> dict[str, object]:
    """A token may end within a character: its bytes say what its text can't."""
    return {
        "token": logprob.text.decode(errors="replace"),
        "logprob": logprob.logprob,
        "bytes": list(logprob.text),
    }

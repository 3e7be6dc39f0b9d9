"""What the choice of one token depends on beside the logits."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from lavatube.engine.wire import Sampling


class Row(msgspec.Struct, frozen=True, gc=False):
    """How to choose, and the prompt and the answer so far. `allowed` is a grammar's bit for each id, lowest first."""

    sampling: Sampling
    token_ids: Sequence[int]
    num_prompt_tokens: int
    allowed: bytes | None = None

    @property
    def is_plain(self) -> bool:
        """The likeliest token, whatever it is and whatever came before."""
        sampling = self.sampling
        return (
            sampling.temperature == 0
            and sampling.top_logprobs is None
            and self.allowed is None
            and not sampling.logit_bias
            and sampling.repetition_penalty == 1
            and sampling.presence_penalty == sampling.frequency_penalty == 0
            and (sampling.min_tokens == 0 or self.may_stop)
        )

    @property
    def position(self) -> int:
        """That of the token to come, counted from the start of the prompt."""
        return len(self.token_ids)

    @property
    def answer_ids(self) -> Sequence[int]:
        return self.token_ids[self.num_prompt_tokens :]

    @property
    def may_stop(self) -> bool:
        return self.position - self.num_prompt_tokens >= self.sampling.min_tokens

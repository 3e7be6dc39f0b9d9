"""How a token is chosen, as fields that OpenAI's two ways to ask have in common → Generation.

Source: openai-python 3.57, types/chat/completion_create_params.py; those that are not OpenAI's as vLLM names them.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field, field_validator

from lavatube.prompt.chat import Generation
from lavatube.prompt.prepare import MAX_STOP_CHARS
from lavatube.serve.fields import Problem, StrictModel, at_most

MAX_STOPS: Final = 4
MAX_TOP_K: Final = 2**31 - 1
SEED_MASK: Final = 2**63 - 1


class SamplingFields(StrictModel):
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    stop: Annotated[list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]] | None, at_most(MAX_STOPS)] = (
        None
    )
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    top_k: int | None = Field(None, ge=-1, le=MAX_TOP_K)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, ge=0.01, le=100)

    @field_validator("stop", mode="before")
    @classmethod
    def _as_list(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @property
    def sampling(self) -> Generation:
        """All but the limit of tokens and the form of the answer."""
        return Generation(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=None if self.seed is None else self.seed & SEED_MASK,
            stop=tuple(self.stop or ()),
            top_k=max(self.top_k or 0, 0),
            min_p=self.min_p or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
        )


def too_large(param: str, limit: int) -> Problem:
    return Problem(param, f"{param} should be less than or equal to {limit}.", "Send a smaller number.")

"""The inputs of a prediction on the Cog routes: those of the original hosted LLaVA predictor, and how to sample.

The one declaration of them: validation and the OpenAPI document both come from here.
"""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Annotated, Final, Literal

from pydantic import Field

from lavatube.predictions.webhook import ALL_EVENTS, Webhook
from lavatube.prompt.chat import Chat, Generation, single_turn
from lavatube.serve.fields import Problem, StrictModel, at_most, invalid

ID_PATTERN: Final = r"^[A-Za-z0-9_-]{1,64}$"
MAX_SEED: Final = 2**63 - 1
MAX_TOP_K: Final = 2**31 - 1

Id = Annotated[str, Field(pattern=ID_PATTERN)]


class Inputs(StrictModel):
    image: str = Field(
        description="The picture: an http(s) URL or a data URL. PNG, JPEG, WebP or GIF (its first frame).",
        json_schema_extra={"format": "uri"},
    )
    prompt: str = Field(description="What to ask about the picture.")
    top_p: float = Field(
        1.0, ge=0, le=1, description="Sample from the most likely tokens whose share of probability is this."
    )
    temperature: float = Field(
        0.2, ge=0, description="Randomness: 0 always takes the most likely token, 1 samples as the model says."
    )
    max_tokens: int = Field(1024, ge=0, description="Most tokens to answer with.")
    seed: int | None = Field(
        None, ge=0, le=MAX_SEED, description="Makes sampling repeatable; without it each run has its own."
    )
    top_k: int = Field(0, ge=0, le=MAX_TOP_K, description="Sample from this many most likely tokens; 0: from all.")
    min_p: float = Field(
        0.0, ge=0, le=1, description="Leave out tokens with less than this share of the most likely one's probability."
    )
    repetition_penalty: float = Field(
        1.0, ge=0.01, le=100, description="Above 1: tokens of the prompt and the answer so far become less likely."
    )
    presence_penalty: float = Field(
        0.0, ge=-2, le=2, description="Above 0: tokens that the answer has become less likely."
    )
    frequency_penalty: float = Field(
        0.0, ge=-2, le=2, description="Above 0: tokens become less likely each time that the answer has them."
    )
    min_tokens: int = Field(0, ge=0, description="Tokens to answer with before the answer may end.")

    @property
    def chat(self) -> Chat:
        return single_turn(self.prompt, self.image, param="input.image")

    def generation(self, max_new_tokens: int) -> Generation:
        """Raises InvalidFields for more tokens than the server gives; the default is cut to them."""
        if self.max_tokens > max_new_tokens and "max_tokens" in self.model_fields_set:
            raise invalid([_too_large("input.max_tokens", max_new_tokens)])
        max_tokens = min(self.max_tokens, max_new_tokens)
        if self.min_tokens > max_tokens:
            raise invalid([_too_large("input.min_tokens", max_tokens)])
        return Generation(
            max_tokens=max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            seed=self.seed,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            min_tokens=self.min_tokens,
        )


class HookFields(StrictModel):
    """The webhook of a create, on the Cog and on the Replicate routes."""

    webhook: str | None = None
    webhook_events_filter: Annotated[
        list[Literal["start", "output", "logs", "completed"]] | None, at_most(len(ALL_EVENTS))
    ] = None

    @property
    def hook(self) -> Webhook | None:
        if self.webhook is None:
            return None
        chosen = self.webhook_events_filter
        return Webhook(self.webhook, ALL_EVENTS if chosen is None else frozenset(chosen))


class PredictionRequest(HookFields):
    """The body of a create. `context` is taken without effect: there is no code of a user's that could read it."""

    id: Id | None = None
    input: Inputs
    context: dict[str, str] | None = None


def _too_large(param: str, limit: int) -> Problem:
    return Problem(param, f"{param} should be less than or equal to {limit}.", "Send a smaller number.")


def fingerprint(inputs: Inputs) -> bytes:
    """The same for the same request, however its JSON was written. Takes a while for a large picture."""
    return sha256(json.dumps(inputs.model_dump(), sort_keys=True).encode()).digest()

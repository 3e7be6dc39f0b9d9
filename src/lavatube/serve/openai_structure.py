"""`response_format` of the OpenAI API, and `structured_outputs` as vLLM has it → the form that an answer must have.

Source: openai-python 3.57, types/shared_params/response_format_*.py; vLLM 0.32, StructuredOutputsParams.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from lavatube.prompt.chat import Structure
from lavatube.serve.fields import StrictModel, at_most, misfit

MAX_CHOICES: Final = 1024
FORMAT: Final = "response_format"
OUTPUTS: Final = "structured_outputs"

JsonSchema = dict[str, Any]


class TextFormat(StrictModel):
    """Asks for nothing."""

    type: Literal["text"]

    @property
    def structure(self) -> None:
        return None


class JsonObjectFormat(StrictModel):
    type: Literal["json_object"]

    @property
    def structure(self) -> Structure:
        return Structure("json_schema", '{"type": "object"}', FORMAT)


class NamedSchema(StrictModel):
    """`strict` false is no looser here: a schema is kept, or refused."""

    name: str = Field(pattern="^[a-zA-Z0-9_-]{1,64}$")
    schema_: JsonSchema = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class JsonSchemaFormat(StrictModel):
    type: Literal["json_schema"]
    json_schema: NamedSchema

    @property
    def structure(self) -> Structure:
        return Structure("json_schema", json.dumps(self.json_schema.schema_), FORMAT)


class StructuredOutputs(StrictModel):
    """One of the three."""

    json_: JsonSchema | None = Field(None, alias="json")
    regex: str | None = Field(None, min_length=1)
    choice: Annotated[list[Annotated[str, Field(min_length=1)]] | None, Field(min_length=1), at_most(MAX_CHOICES)] = (
        None
    )

    @model_validator(mode="after")
    def _is_one(self) -> StructuredOutputs:
        if sum(value is not None for value in (self.json_, self.regex, self.choice)) != 1:
            raise misfit("", "structured_outputs has one of json, regex and choice.", "Give one.")
        return self

    @property
    def structure(self) -> Structure:
        if self.regex is not None:
            return Structure("regex", self.regex, OUTPUTS)
        if self.choice is not None:
            return Structure("choice", json.dumps(self.choice), OUTPUTS)
        return Structure("json_schema", json.dumps(self.json_), OUTPUTS)

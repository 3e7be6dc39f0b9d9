"""docs/api.md says of every parameter what the code does with it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsBase, CompletionCreateParamsStreaming
from openai.types.responses.response_create_params import ResponseCreateParamsBase, ResponseCreateParamsStreaming
from pydantic import BaseModel

from lavatube.serve import responses_request
from lavatube.serve.cog_inputs import Inputs, PredictionRequest
from lavatube.serve.openai_request import NOT_SERVED, WITHOUT_EFFECT, ChatRequest
from lavatube.serve.responses_request import ResponseRequest

PAGE = (Path(__file__).parent.parent.parent / "docs" / "api.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `([a-z_.]+)` \| (supported|ignored|refused) \| (.+) \|$", re.MULTILINE)
BOUNDS = re.compile(r"(?:not OpenAI's: )?(−?[0-9.]+) to (−?[0-9.]+)")


def section(heading: str) -> str:
    return PAGE.split(f"\n## {heading}")[1].split("\n## ")[0]


def table(heading: str) -> dict[str, str]:
    return {name: treatment for name, treatment, _ in ROW.findall(section(heading))}


OPENAI = table("OpenAI")
RESPONSES = table("Responses")
COG = table("Cog")


def test_openai_parameters_are_treated_as_written() -> None:
    wanted = dict.fromkeys(ChatRequest.model_fields, "supported")
    wanted |= dict.fromkeys(WITHOUT_EFFECT, "ignored") | dict.fromkeys(NOT_SERVED, "refused")
    assert wanted == OPENAI


def test_every_parameter_of_the_stock_client_is_written_down() -> None:
    theirs = {*CompletionCreateParamsBase.__annotations__, *CompletionCreateParamsStreaming.__annotations__}
    assert len(theirs) > 30
    assert theirs <= set(OPENAI)


def test_parameters_of_responses_are_treated_as_written() -> None:
    wanted = dict.fromkeys(ResponseRequest.model_fields, "supported")
    wanted |= dict.fromkeys(responses_request.WITHOUT_EFFECT, "ignored")
    wanted |= dict.fromkeys(responses_request.NOT_SERVED, "refused")
    assert wanted == RESPONSES


def test_every_parameter_of_responses_is_written_down() -> None:
    theirs = {*ResponseCreateParamsBase.__annotations__, *ResponseCreateParamsStreaming.__annotations__}
    assert len(theirs) > 30
    assert theirs <= set(RESPONSES)


def test_cog_fields_are_treated_as_written() -> None:
    wanted = {f"input.{name}": "supported" for name in Inputs.model_fields}
    for name, field in PredictionRequest.model_fields.items():
        if name != "input":
            wanted[name] = "refused" if field.annotation is type(None) else "supported"
    wanted["context"] = "ignored"
    assert wanted == COG


@pytest.mark.parametrize(("heading", "model"), [("OpenAI", ChatRequest), ("Responses", ResponseRequest)])
def test_written_bounds_are_those_of_the_code(heading: str, model: type[BaseModel]) -> None:
    """Where a row begins with "A to B", the field's own limits are A and B."""
    written = {
        name: [float(bound.replace("−", "-")) for bound in bounds.groups()]
        for name, _, meaning in ROW.findall(section(heading))
        if (bounds := BOUNDS.match(meaning))
    }
    assert len(written) >= 3
    assert written == {name: _limits(model, name) for name in written}


def _limits(model: type[BaseModel], name: str) -> list[float]:
    """The field's ge and le."""
    found = model.model_fields[name].metadata
    return [getattr(limit, key) for key in ("ge", "le") for limit in found if hasattr(limit, key)]

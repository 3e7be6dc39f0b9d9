"""pydantic's findings about a request → InvalidFields: which fields, what is wrong with each, in a sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from lavatube.errors import InvalidInput

MAX_PROBLEMS: Final = 16
MAX_NAME: Final = 60

Body = TypeVar("Body", bound="StrictModel")


class StrictModel(BaseModel):
    """The shape of something a client sends: nothing converted, nothing unknown, nothing infinite."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one field; `param` is its path, with dots."""

    param: str
    message: str
    remedy: str = ""
    is_missing: bool = False


class InvalidFields(InvalidInput):
    """One or more fields are wrong; as an error it speaks of the first."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        remedy: str = "",
        retry_after_s: int | None = None,
        problems: tuple[Problem, ...] = (),
    ) -> None:
        super().__init__(message, param=param, remedy=remedy, retry_after_s=retry_after_s)
        self.problems = problems or (Problem(param or "", message, remedy),)


def validate(model: type[Body], value: Mapping[str, object]) -> Body:
    """Raises InvalidFields."""
    if len(value) > len(model.model_fields) + MAX_PROBLEMS:  # each unknown one would become an error of its own
        raise invalid([Problem("", "The body has far more fields than there are.", _all_fields(model))])
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=True, include_input=False)[:MAX_PROBLEMS]
    raise invalid(_problem(model, details) for details in found)


def invalid(problems: Iterable[Problem]) -> InvalidFields:
    found = tuple(problems)
    first = found[0]
    return InvalidFields(first.message, param=first.param or None, remedy=first.remedy, problems=found)


def _problem(model: type[BaseModel], details: ErrorDetails) -> Problem:
    path = _path(details["loc"])
    param = ".".join(path)
    match details["type"]:
        case "missing":
            return Problem(param, f"{param} is missing.", "It is required.", is_missing=True)
        case "extra_forbidden":
            return Problem(param, f"There is no field {param}.", _nearest(model, path))
        case "value_error":
            return Problem(param, str(details["ctx"]["error"]))
        case "union_tag_not_found":
            return Problem(f"{param}.type", f"{param}.type is missing.", "It is required.", is_missing=True)
        case "union_tag_invalid":
            return Problem(f"{param}.type", f"{param}.type is none of {details['ctx']['expected_tags']}.")
        case _:
            return Problem(param, f"{param} {details['msg'].removeprefix('Input ')}.")


def _path(loc: tuple[int | str, ...]) -> list[str]:
    """Names of a client's own choosing are cut; the tag that pydantic puts in for one of several forms is left out."""
    parts = [
        str(part)[:MAX_NAME]
        for index, part in enumerate(loc)
        if not (index >= 2 and isinstance(loc[index - 1], int) and loc[index - 2] == "content")
        and not (index == 1 and loc[0] == "response_format" and len(loc) > 2)
    ]
    return [part.encode("ascii", "backslashreplace").decode() for part in parts]


def _nearest(model: type[BaseModel], path: list[str]) -> str:
    """The field that was probably meant."""
    names = _names(model, path[:-1])
    near = difflib.get_close_matches(path[-1], names, n=1)
    if near:
        return f"Did you mean {near[0]}?"
    return f"The fields are {', '.join(names)}." if names else ""


def _all_fields(model: type[BaseModel]) -> str:
    return f"The fields are {', '.join(_names(model, []))}."


def _names(model: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        field = model.model_fields.get(part)
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
            return []
        model = field.annotation
    return list(model.model_fields)

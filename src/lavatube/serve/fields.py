"""pydantic's findings about a request → InvalidFields: which fields, what is wrong with each, in a sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from lavatube.errors import InvalidInput

MAX_PROBLEMS: Final = 16
MAX_NAME: Final = 60

Body = TypeVar("Body", bound="StrictModel")


class StrictModel(BaseModel):
    """The shape of something a client sends: nothing converted, nothing unknown, nothing infinite."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _has_few_fields(cls, value: object) -> object:
        """Each unknown field would become an error of its own, and pydantic keeps them all."""
        if isinstance(value, dict) and len(value) > len(cls.model_fields) + MAX_PROBLEMS:
            names = _names(cls, [])
            unknown = [name for name in value if name not in names]
            raise misfit(unknown[0], f"{len(unknown)} fields are unknown.", f"There are {', '.join(names)}.")
        return value


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one field; `param` is its path, with dots."""

    param: str
    message: str
    remedy: str = ""
    is_missing: bool = False


class InvalidFields(InvalidInput):
    """One or more fields are wrong; as an error it speaks of the first."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        first = problems[0]
        super().__init__(first.message, param=first.param or None, remedy=first.remedy)
        self.problems = problems


def validate(model: type[Body], value: Mapping[str, object]) -> Body:
    """Raises InvalidFields."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=True, include_input=False)[:MAX_PROBLEMS]
    raise invalid(_problem(model, details) for details in found)


def invalid(problems: Iterable[Problem]) -> InvalidFields:
    return InvalidFields(tuple(problems))


def misfit(param: str, message: str, remedy: str) -> PydanticCustomError:
    """For a validator to raise; `param` is within what it validates, empty for the whole."""
    return PydanticCustomError("misfit", "{message}", {"message": message, "param": param, "remedy": remedy})


def at_most(limit: int) -> BeforeValidator:
    """A bound on a list or an object that is looked at before its entries are, of which each may be an error."""

    def check(value: object) -> object:
        if isinstance(value, list | dict) and len(value) > limit:
            raise PydanticCustomError("too_many", "has more than {limit} entries", {"limit": limit})
        return value

    return BeforeValidator(check)


def _problem(model: type[BaseModel], details: ErrorDetails) -> Problem:
    path = _path(details["loc"])
    param = ".".join(path)
    context = details.get("ctx", {})
    match details["type"]:
        case "missing":
            return Problem(param, f"{param} is missing.", "It is required.", is_missing=True)
        case "extra_forbidden":
            return Problem(param, f"There is no field {param}.", _nearest(model, path))
        case "misfit":
            within = [context["param"]] if context["param"] else []
            return Problem(".".join(_path((*details["loc"], *within))), context["message"], context["remedy"])
        case "union_tag_not_found":
            return Problem(f"{param}.type", f"{param}.type is missing.", "It is required.", is_missing=True)
        case "union_tag_invalid":
            return Problem(f"{param}.type", f"{param}.type is none of those there are.", _one_of(context))
        case kind:
            fault, remedy = _in_words(kind, details["msg"], context)
            return Problem(param, f"{param or 'The body'} {fault}.", remedy)


def _one_of(context: Mapping[str, Any]) -> str:
    return f"Choose one of {context['expected_tags']}."


def _in_words(kind: str, message: str, context: Mapping[str, Any]) -> tuple[str, str]:
    """What is wrong and what to do, where pydantic speaks of its own types; else its words, which are good."""
    match kind:
        case "model_type" | "model_attributes_type" | "dict_type":
            return "should be an object", "Send a JSON object."
        case "list_type":
            return "should be a list", "Send a JSON array."
        case "string_pattern_mismatch":
            return "does not have its form", f"It has to match {context['pattern']}."
        case "string_too_short" | "too_short":
            return "is too short", f"Its length is at least {context['min_length']}."
        case "string_too_long" | "too_long":
            return "is too long", f"Its length is at most {context['max_length']}."
        case "too_many":
            return message, f"Send at most {context['limit']}."
        case _:
            return message.removeprefix("Input "), "Send such a value, or leave the field out if it is optional."


def _path(loc: tuple[int | str, ...]) -> list[str]:
    """Names of a client's own choosing are cut; the tag that pydantic puts in for one of several forms is left out."""
    parts = [
        str(part)[:MAX_NAME]
        for index, part in enumerate(loc)
        if part != "[key]"  # pydantic's mark for the key itself, not its value
        and not (index >= 2 and isinstance(loc[index - 1], int) and loc[index - 2] in ("content", "input"))
        and not (index == 1 and loc[0] == "response_format" and len(loc) > 2)
        and not (index == 2 and loc[:2] == ("text", "format") and len(loc) > 3)
    ]
    return [part.encode("ascii", "backslashreplace").decode() for part in parts]


def _nearest(model: type[BaseModel], path: list[str]) -> str:
    """The field that was probably meant."""
    names = _names(model, path[:-1])
    near = difflib.get_close_matches(path[-1], names, n=1)
    if near:
        return f"Did you mean {near[0]}?"
    return f"The fields are {', '.join(names)}." if names else "Leave it out."


def _names(model: type[BaseModel], path: list[str]) -> list[str]:
    """What may be sent there; a field that only takes null is known in order to be refused."""
    for part in path:
        field = model.model_fields.get(part)
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
            return []
        model = field.annotation
    fields = model.model_fields.items()
    return [field.alias or name for name, field in fields if field.annotation is not type(None)]

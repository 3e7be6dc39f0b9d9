"""The query strings of the routes that read a response, and one page of a list."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, model_validator
from starlette.requests import Request

from lavatube.serve.fields import Problem, StrictModel, at_most, invalid, misfit, validate
from lavatube.serve.responses_request import IMAGE_URLS, Includable

Query = TypeVar("Query", bound="QueryModel")


class QueryModel(StrictModel):
    """All values come as text."""

    model_config = ConfigDict(strict=False)

    include: Annotated[list[Includable], at_most(32)] = Field(default_factory=list)


class RetrieveQuery(QueryModel):
    """`include` adds nothing: what a response has was decided when it was made."""

    stream: bool = False
    starting_after: int | None = Field(None, ge=0, lt=2**53)
    include_obfuscation: bool = False

    @model_validator(mode="after")
    def _fits_together(self) -> RetrieveQuery:
        if self.starting_after is not None and not self.stream:
            raise misfit("starting_after", "starting_after needs stream to be true.", "Set stream, or leave it out.")
        if self.include_obfuscation:
            raise misfit("include_obfuscation", "Events are not obfuscated.", "Leave it out.")
        return self


class ListQuery(QueryModel):
    after: str | None = Field(None, max_length=128)
    limit: int = Field(20, ge=1, le=100)
    order: Literal["asc", "desc"] = "desc"

    @property
    def shows_pictures(self) -> bool:
        return IMAGE_URLS in self.include

    def page(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """Of all items, the oldest first. Raises InvalidFields when there is nothing to come after."""
        ordered = items if self.order == "asc" else items[::-1]
        if self.after is not None:
            ids = [item["id"] for item in ordered]
            if self.after not in ids:
                raise invalid([Problem("after", "There is no item of this id.", "Send the last_id of a page.")])
            ordered = ordered[ids.index(self.after) + 1 :]
        page = ordered[: self.limit]
        return {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": len(ordered) > len(page),
        }


def parse_query(model: type[Query], request: Request) -> Query:
    """Lists come as `name[]=…`, once for each value. Raises InvalidFields."""
    values: dict[str, object] = {}
    for name in request.query_params:
        found = request.query_params.getlist(name)
        is_list = name.removesuffix("[]") == "include"
        values[name.removesuffix("[]") if is_list else name] = found if is_list else found[-1]
    return validate(model, values)

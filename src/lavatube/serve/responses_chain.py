"""A response, and those that it goes on from → the conversation that they are together.

Each keeps its own input only, so that a long conversation is kept once; one that was forgotten ends the chain.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from lavatube.errors import NotFound, PreviousResponseNotFound
from lavatube.predictions.events import Status
from lavatube.predictions.prediction import Prediction
from lavatube.prompt.chat import Role, Text, Turn
from lavatube.serve.body import Grow
from lavatube.serve.fields import Problem, invalid
from lavatube.serve.kept_pictures import KeptPictures
from lavatube.serve.responses_input import MAX_ITEMS, NAME, Item, Reference, listed, picture_names, turns_of_kept
from lavatube.serve.responses_views import ITEM_PREFIX, PREFIX

MAX_SHOWN_BYTES: Final = 32 * 1024 * 1024
PARAM: Final = "previous_response_id"

Find = Callable[[str], Awaitable[Prediction | None]]
Attachment = Callable[[Prediction, str], Awaitable[str | None]]


class Chain:
    """`find` finds what one caller may go on from; `attachment` what is kept with it, if it is journaled."""

    def __init__(self, find: Find, pictures: KeptPictures, attachment: Attachment) -> None:
        self._find = find
        self._pictures = pictures
        self._attachment = attachment
        self._journaled: dict[str, Prediction] = {}  # by the names of their pictures

    async def turns(self, response_id: str | None, grow: Grow) -> tuple[Turn, ...]:
        """The whole conversation up to that response's answer; `grow` is told how large its pictures are by now.

        Raises: PreviousResponseNotFound, also for a picture; InvalidFields; StorageUnavailable; and what `grow` does.
        """
        turns: list[Turn] = []
        pictures: dict[str, str] = {}
        for prediction in await self._back_from(response_id):
            items = prediction.details["items"]
            for name in picture_names(items):
                if name not in pictures:
                    pictures[name] = await self._picture(name)
                    grow(sum(map(len, pictures.values())))
            turns += turns_of_kept(items, PARAM, pictures)
            turns.append(Turn(Role.ASSISTANT, (Text(prediction.text),)))
        return tuple(turns)

    async def answers(self, references: Mapping[str, Reference]) -> dict[str, str]:
        """The texts that they refer to, by their place. Raises: NotFound, StorageUnavailable."""
        return {place: await self._text(place, reference.id) for place, reference in references.items()}

    async def items(self, prediction: Prediction) -> list[Item]:
        """What a response is the answer to, as it is listed, the oldest first. Raises PreviousResponseNotFound."""
        items: list[Item] = []
        for earlier in await self._back_from(_previous(prediction)):
            items += [*_listed(earlier), _answer(earlier)]
        self._remember(prediction)
        return items + _listed(prediction)

    async def show(self, items: list[Item], *, shows_pictures: bool) -> list[Item]:
        """Listed items with the URLs of their pictures, or null: as not asked for, no longer kept, or too much.

        Raises: StorageUnavailable.
        """
        budget_bytes = MAX_SHOWN_BYTES if shows_pictures else 0
        shown = []
        for item in items:
            content = []
            for part in item["content"]:
                if part["type"] != "input_image":
                    content.append(part)
                    continue
                url = part.get("image_url") or (await self._url(part[NAME]) if budget_bytes > 0 else None)
                budget_bytes -= len(url or "")
                if budget_bytes < 0:
                    url = None
                content.append({"type": "input_image", "detail": part["detail"], "image_url": url})
            shown.append({**item, "content": content})
        return shown

    async def _text(self, place: str, item_id: str) -> str:
        prediction = await self._find(item_id.removeprefix(ITEM_PREFIX))
        if prediction is None or "response" not in prediction.details or prediction.status is not Status.SUCCEEDED:
            raise NotFound(
                "The answer that this refers to is not here.",
                param=f"{place}.id",
                remedy="Answers are kept for a while only; send the message itself.",
            )
        return prediction.text

    async def _back_from(self, response_id: str | None) -> list[Prediction]:
        """The oldest first."""
        found: list[Prediction] = []
        num_items = 0
        while response_id is not None:
            prediction = await self._get(response_id)
            found.append(prediction)
            self._remember(prediction)
            num_items += len(prediction.details["items"]) + 1
            if num_items > MAX_ITEMS:
                raise invalid([Problem(PARAM, f"The conversation has more than {MAX_ITEMS} items.", "Begin anew.")])
            response_id = _previous(prediction)
        return found[::-1]

    async def _get(self, response_id: str) -> Prediction:
        prediction = await self._find(response_id.removeprefix(PREFIX))
        if prediction is None or "response" not in prediction.details:
            raise PreviousResponseNotFound(
                "The response that this one goes on from is not here.",
                param=PARAM,
                remedy="Finished ones are kept for a while only; send the conversation as input.",
            )
        if prediction.status is not Status.SUCCEEDED:
            raise invalid([Problem(PARAM, "That response has no answer to go on from.", "Wait until it is completed.")])
        return prediction

    def _remember(self, prediction: Prediction) -> None:
        if prediction.is_journaled:
            self._journaled |= dict.fromkeys(picture_names(prediction.details["items"]), prediction)

    async def _picture(self, name: str) -> str:
        url = await self._url(name)
        if url is None:
            raise PreviousResponseNotFound(
                "A picture of the conversation is no longer here.",
                param=PARAM,
                remedy="Send it again, as input of a new conversation.",
            )
        return url

    async def _url(self, name: str) -> str | None:
        """A picture of this conversation, wherever it is: its name is the digest of its URL."""
        url = self._pictures.find(name)
        if url is None and (prediction := self._journaled.get(name)) is not None:
            url = await self._attachment(prediction, name)
        return url


def _listed(prediction: Prediction) -> list[Item]:
    return [
        listed(item, f"{ITEM_PREFIX}{prediction.id}_{index}") for index, item in enumerate(prediction.details["items"])
    ]


def _previous(prediction: Prediction) -> str | None:
    previous: str | None = prediction.details["response"][PARAM]
    return previous


def _answer(prediction: Prediction) -> dict[str, Any]:
    part = {"type": "output_text", "text": prediction.text, "annotations": [], "logprobs": []}
    return {
        "id": ITEM_PREFIX + prediction.id,
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [part],
    }

"""What the tours of OpenAI's clients have in common: the picture that they ask about, and what they ask."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from tests.clients.conftest import KEY
from tests.flow.conftest import data_url
from tests.flow.server import Server

QUESTION: Final = "How many circles are there?"
FOLLOW_UP: Final = "And how many squares?"
PICTURE: Final = data_url("shapes.png")
OTHER_PICTURE: Final = data_url("letter.png")
# An answer of at least so many characters, so that there is time to interfere with it.
LONG: Final = {
    "type": "json_schema",
    "name": "long",
    "schema": {
        "type": "object",
        "properties": {"text": {"type": "string", "minLength": 120, "maxLength": 160}},
        "required": ["text"],
        "additionalProperties": False,
    },
}


def chat_content(*pictures: str, question: str = QUESTION) -> list[dict[str, Any]]:
    parts = [{"type": "image_url", "image_url": {"url": picture}} for picture in pictures or (PICTURE,)]
    return [*parts, {"type": "text", "text": question}]


def response_input(question: str = QUESTION) -> list[dict[str, Any]]:
    picture = {"type": "input_image", "image_url": PICTURE, "detail": "auto"}
    return [{"role": "user", "content": [picture, {"type": "input_text", "text": question}]}]


def javascript_tour(node: Callable[..., Any], server: Server, head: str) -> Callable[[str], Any]:
    """Runs scripts that begin with `head` and know the questions; a picture is too long for a variable."""
    known = {"PICTURE": PICTURE, "QUESTION": QUESTION, "FOLLOW_UP": FOLLOW_UP, "LONG": {"format": LONG}}
    constants = "".join(f"const {name} = {json.dumps(value)};\n" for name, value in known.items())
    return lambda script: node(constants + head + script, BASE_URL=f"{server.url}/v1", KEY=KEY)

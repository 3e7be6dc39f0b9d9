"""Replicate's files: upload a picture, name it in predictions. Stored in the database, for a day, by ids of ours."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lavatube.errors import InvalidInput, NotFound
from lavatube.predictions.files import FileStore, StoredFile
from lavatube.serve.auth import caller_of
from lavatube.serve.base_url import base_url
from lavatube.serve.body import BodyReader
from lavatube.serve.dialects import json_response
from lavatube.serve.multipart import Part, boundary_of, parse_form
from lavatube.serve.replicate_views import file_body, page_body
from lavatube.serve.strict_json import parse_json

LIST_LIMIT: Final = 100
MAX_METADATA_BYTES: Final = 8192
_ID: Final = re.compile(r"file-[a-z2-7]{26}")
_OWN_PATH: Final = re.compile(r"/v1/files/(file-[a-z2-7]{26})(?:/download)?")
_MEDIA_TYPE: Final = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,60}/[A-Za-z0-9!#$&^_.+-]{1,60}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


def own_file(url: str, base: str) -> str | None:
    """The id of the file that a URL of this server names; None for any other URL."""
    found = _OWN_PATH.fullmatch(url[len(base) :]) if url.startswith(f"{base}/") else None
    return None if found is None else found[1]


class FileRoutes:
    """The handlers."""

    def __init__(self, bodies: BodyReader, files: FileStore, *, public_url: str) -> None:
        self._bodies = bodies
        self._files = files
        self._public_url = public_url

    def routes(self) -> list[Route]:
        return [
            Route("/v1/files", self.create, methods=["POST"]),
            Route("/v1/files", self.list, methods=["GET"]),
            Route("/v1/files/{id}", self.get, methods=["GET"]),
            Route("/v1/files/{id}", self.delete, methods=["DELETE"]),
            Route("/v1/files/{id}/download", self.download, methods=["GET"]),
        ]

    async def create(self, request: Request) -> Response:
        boundary = boundary_of(request.headers.get("content-type", ""))
        form = await self._bodies.read_raw(request, lambda body: parse_form(body, boundary))
        content, metadata = _content(form), _metadata(form.get("metadata"))
        kind = content.content_type if _MEDIA_TYPE.fullmatch(content.content_type) else "application/octet-stream"
        name = _CONTROL.sub("", content.filename)[:255] or "file"
        owner = caller_of(request).id
        file = await asyncio.to_thread(self._files.add, owner, name, kind, content.content, metadata)
        return json_response(self._body(file, request), 201)

    async def list(self, request: Request) -> Response:
        """The newest; there are no further pages."""
        files = await asyncio.to_thread(self._files.list, caller_of(request).id, LIST_LIMIT)
        return json_response(page_body([self._body(file, request) for file in files]))

    async def get(self, request: Request) -> Response:
        file = await asyncio.to_thread(self._files.get, caller_of(request).id, _file_id(request))
        return json_response(self._body(file, request))

    async def delete(self, request: Request) -> Response:
        await asyncio.to_thread(self._files.remove, caller_of(request).id, _file_id(request))
        return Response(status_code=204)

    async def download(self, request: Request) -> Response:
        """The bytes as they came, never as something that a browser would run."""
        content = await asyncio.to_thread(self._files.read, caller_of(request).id, _file_id(request))
        headers = {"Content-Disposition": "attachment", "X-Content-Type-Options": "nosniff"}
        return Response(content, headers=headers, media_type="application/octet-stream")

    def _body(self, file: StoredFile, request: Request) -> dict[str, Any]:
        return file_body(file, base_url(request, self._public_url))


def _file_id(request: Request) -> str:
    file_id: str = request.path_params["id"]
    if not _ID.fullmatch(file_id):
        raise NotFound("There is no such file.", param="id", remedy="Ids of files begin with file-.")
    return file_id


def _content(form: Any) -> Part:
    if "content" in form:
        part: Part = form["content"]
        return part
    if "file" in form:
        raise InvalidInput(
            "Files of the OpenAI API are not served.",
            param="file",
            remedy="Put the picture into the message as a data: URL; Replicate's uploads are named content.",
        )
    raise InvalidInput("The form has no part content.", param="content", remedy="Put the file there.")


def _metadata(part: Part | None) -> dict[str, Any]:
    if part is None or not part.content:
        return {}
    if len(part.content) > MAX_METADATA_BYTES:
        raise InvalidInput("The metadata are too long.", param="metadata", remedy=f"Send {MAX_METADATA_BYTES} bytes.")
    found = parse_json(part.content)
    if not isinstance(found, dict):
        raise InvalidInput("The metadata are no JSON object.", param="metadata", remedy="Send one, or leave it out.")
    return found

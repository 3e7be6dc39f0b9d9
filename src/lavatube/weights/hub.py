"""The model hub's API: a repository and a revision in; a commit and its files, with their digests, out.

Source: GET /api/models/{repo}/revision/{rev} and /api/models/{repo}/tree/{commit}, as huggingface_hub 2.4.0 calls
them. A file in large-file storage has its sha256 there; a small one the id of its git blob.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urljoin

from lavatube.errors import SourceUnavailable
from lavatube.weights.dial import origin_of
from lavatube.weights.http import HttpAccess, HttpClient, read_document
from lavatube.weights.manifest import MAX_FILE_BYTES, unique_pairs
from lavatube.weights.options import MIB

MAX_PAGES: Final = 100
_HEX40: Final = re.compile(r"[0-9a-f]{40}")
_HEX64: Final = re.compile(r"[0-9a-f]{64}")
_NEXT: Final = re.compile(r'<([^<>]+)>;\s*rel="next"')


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file at one commit; exactly one of the digests is known."""

    path: str
    size: int
    sha256: str = ""
    git_sha1: str = ""


class Hub:
    """One repository of one hub."""

    def __init__(self, access: HttpAccess, repository: str) -> None:
        self._access = access
        self._endpoint = access.root.rstrip("/")
        self._repository = repository

    def commit(self, revision: str) -> str:
        """The 40-digit commit that a branch, tag or short name means now. Raises: SourceUnavailable."""
        url = f"{self._endpoint}/api/models/{self._repository}/revision/{quote(revision, safe='')}"
        value, _ = self._get(url)
        commit = value.get("sha") if isinstance(value, dict) else None
        if not isinstance(commit, str) or not _HEX40.fullmatch(commit):
            raise SourceUnavailable(f"The hub gave no commit for {self._repository}@{revision}.")
        return commit

    def files(self, commit: str) -> list[HubFile]:
        """All files of a commit. Raises: SourceUnavailable."""
        return [_parse(entry, self._repository) for entry in self._entries(commit) if _is_file(entry)]

    def location(self, commit: str, path: str) -> str:
        """Where a file is fetched; the hub redirects from there to its storage."""
        return f"{self._endpoint}/{self._repository}/resolve/{commit}/{quote(path)}"

    def connect(self) -> HttpClient:
        return HttpClient(self._access)

    def _entries(self, commit: str) -> Iterator[object]:
        url: str | None = f"{self._endpoint}/api/models/{self._repository}/tree/{commit}?recursive=true"
        for _ in range(MAX_PAGES):
            if url is None:
                return
            value, link = self._get(url)
            if not isinstance(value, list):
                raise SourceUnavailable(f"The hub's list of the files of {self._repository} is not a list.")
            yield from value
            following = _NEXT.search(link)
            url = urljoin(url, following[1]) if following else None
            if url is not None and origin_of(url) != origin_of(self._endpoint):
                raise SourceUnavailable("The hub's list of files goes on at another host, which is refused.")

    def _get(self, url: str) -> tuple[object, str]:
        found = read_document(self._access, url, 16 * MIB)
        if found is None:
            raise SourceUnavailable(
                f"The hub has no model {self._repository}, or not that revision of it.",
                remedy="Check the name; a gated or private model needs HF_TOKEN.",
            )
        data, link = found
        try:
            return json.loads(data, object_pairs_hook=unique_pairs), link
        except (ValueError, RecursionError) as error:
            raise SourceUnavailable(f"The hub's answer about {self._repository} is not JSON.") from error


def _is_file(entry: object) -> bool:
    return isinstance(entry, dict) and entry.get("type") == "file"


def _parse(entry: object, repository: str) -> HubFile:
    match entry:
        case {"path": str(path), "lfs": {"oid": str(oid), "size": int(size)}} if _HEX64.fullmatch(oid):
            file = HubFile(path, size, sha256=oid)
        case {"path": str(path), "lfs": dict()}:
            raise SourceUnavailable(f"The hub lists {path!r:.200} of {repository} without a sha256.")
        case {"path": str(path), "oid": str(oid), "size": int(size)} if _HEX40.fullmatch(oid):
            file = HubFile(path, size, git_sha1=oid)
        case _:
            raise SourceUnavailable(f"The hub lists a file of {repository} without a digest.")
    if not 0 <= file.size <= MAX_FILE_BYTES:
        raise SourceUnavailable(f"The hub lists a file of {repository} with an impossible size.")
    return file

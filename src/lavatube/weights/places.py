"""Where the files of a model can lie: one interface to a folder's URL, a bucket and a folder of this machine.

A place is asked for its manifest, for what there is, and where each file is. It decides nothing about trust.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import quote, urlsplit, urlunsplit

from lavatube.errors import InvalidManifest
from lavatube.weights import manifest as manifests
from lavatube.weights.buckets import Bucket
from lavatube.weights.dial import redact
from lavatube.weights.headers import INDEX, SINGLE, TORCH_INDEX, TORCH_SINGLE
from lavatube.weights.http import HttpAccess, HttpClient, Probe, read_document
from lavatube.weights.local import LocalReader, version_of
from lavatube.weights.patience import Patience, Transient
from lavatube.weights.source import Reader

# What is asked for, by name, where nobody says what there is.
USUAL: Final = (
    "adapter_config.json",
    "adapter_model.bin",
    "adapter_model.safetensors",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "mm_projector.bin",
    "non_lora_trainables.bin",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
)


class Place(Protocol):
    """A folder somewhere. `uri` may be shown. Raises: SourceUnavailable, from every method that asks."""

    @property
    def uri(self) -> str: ...

    def document(self, path: str) -> bytes | None: ...

    def probe(self, path: str) -> Probe | None: ...

    def listing(self) -> dict[str, Probe]: ...

    def locate(self, path: str) -> str: ...

    def connect(self) -> Reader: ...


class HttpPlace:
    """A folder's URL."""

    def __init__(self, access: HttpAccess) -> None:
        self.uri = redact(access.root)
        self._access = access

    def document(self, path: str) -> bytes | None:
        found = read_document(self._access, self.locate(path), manifests.MAX_MANIFEST_BYTES)
        return found[0] if found else None

    def probe(self, path: str) -> Probe | None:
        with closing(HttpClient(self._access)) as client:
            return self._probe(client, path)

    def listing(self) -> dict[str, Probe]:
        """HTTP has none: the usual files by name, and the shards that an index names."""
        paths = [*USUAL, SINGLE, TORCH_SINGLE]
        for name in (INDEX, TORCH_INDEX):
            index = self.document(name)
            if index is not None:
                paths += [name, *_shards(index, name, self.uri)]
                break
        with closing(HttpClient(self._access)) as client:
            probes = {path: self._probe(client, path) for path in sorted(paths)}
        return {path: probe for path, probe in probes.items() if probe is not None}

    def locate(self, path: str) -> str:
        """A signed query stays on."""
        parts = urlsplit(self._access.root)
        return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{quote(path)}"))

    def connect(self) -> HttpClient:
        return HttpClient(self._access)

    def _probe(self, client: HttpClient, path: str) -> Probe | None:
        url = self.locate(path)
        patience = Patience(redact(url), self._access.policy)
        while True:
            try:
                return client.probe(url)
            except Transient as error:
                patience.fail(error)


class BucketPlace:
    """A prefix of a bucket."""

    def __init__(self, bucket: Bucket) -> None:
        self.uri = bucket.uri
        self._bucket = bucket
        self.connect: Callable[[], Reader] = bucket.connect
        self.probe = bucket.probe

    def document(self, path: str) -> bytes | None:
        return self._bucket.document(path, manifests.MAX_MANIFEST_BYTES)

    def listing(self) -> dict[str, Probe]:
        return self._bucket.objects()

    def locate(self, path: str) -> str:
        return path


class FolderPlace:
    """A folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self.uri = folder.as_uri()
        self._folder = folder

    def document(self, path: str) -> bytes | None:
        found = self._folder / path
        return found.read_bytes() if found.is_file() else None

    def probe(self, path: str) -> Probe | None:
        found = self._folder / path
        return Probe(found.stat().st_size, version_of(found)) if found.is_file() else None

    def listing(self) -> dict[str, Probe]:
        probes = {path: self.probe(path) for path in manifests.list_folder(self._folder)}
        return {path: probe for path, probe in probes.items() if probe is not None}

    def locate(self, path: str) -> str:
        return str(self._folder / path)

    def connect(self) -> LocalReader:
        return LocalReader()


def _shards(index: bytes, name: str, where: str) -> list[str]:
    try:
        weight_map = json.loads(index, object_pairs_hook=manifests.unique_pairs)["weight_map"]
        shards = sorted(set(weight_map.values()))
        manifests.check_paths(shards, where)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidManifest(f"{where}: {name} has no weight_map of names.") from error
    return shards

"""A folder's URL as a place of files, and whether what it says can be believed."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Final
from urllib.parse import quote, urlsplit, urlunsplit

from lavatube.errors import InvalidManifest, InvalidSetting, UntrustedSource
from lavatube.weights import content
from lavatube.weights import manifest as manifests
from lavatube.weights.dial import is_loopback, redact
from lavatube.weights.http import HttpAccess, HttpClient, read_document
from lavatube.weights.options import ProvisionOptions
from lavatube.weights.patience import Patience, Transient
from lavatube.weights.source import Probe

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
        from lavatube.weights.headers import INDEX, SINGLE, TORCH_INDEX, TORCH_SINGLE  # a manifest says all of it

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


def mirror_place(uri: str, options: ProvisionOptions) -> HttpPlace:
    """Its bytes are checked against digests from elsewhere, so that plain http will do."""
    access = HttpAccess(uri.rstrip("/"), options.policy, allow_http=True)
    check_scheme(access)
    return HttpPlace(access)


def is_authentic(root: str) -> bool:
    parts = urlsplit(root)
    return parts.scheme == "https" or is_loopback(parts.hostname or "")


def check_scheme(access: HttpAccess) -> None:
    if urlsplit(access.root).scheme not in ("http", "https") or not urlsplit(access.root).hostname:
        raise InvalidSetting(f"{redact(access.root)} is no http(s) URL.")
    if not access.allow_http and not is_authentic(access.root):
        raise UntrustedSource(
            f"{redact(access.root)} is plain http, which anybody on the way can change.",
            remedy="Use https, or pin the files with --lock.",
        )


def _shards(index: bytes, name: str, where: str) -> list[str]:
    try:
        weight_map = json.loads(index, object_pairs_hook=manifests.unique_pairs)["weight_map"]
        shards = sorted(set(weight_map.values()))
        content.check_paths(shards, where)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidManifest(f"{where}: {name} has no weight_map of names.") from error
    return shards

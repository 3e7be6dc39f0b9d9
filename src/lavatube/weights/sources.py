"""A ModelUri becomes a Source: its files, who vouches for them, and readers of their ranges. Fetches no weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import quote, urlsplit, urlunsplit

from lavatube.errors import InvalidManifest, InvalidSetting, UntrustedSource
from lavatube.weights import manifest as manifests
from lavatube.weights.dial import is_loopback, redact
from lavatube.weights.headers import INDEX, SINGLE, TORCH_INDEX, TORCH_SINGLE
from lavatube.weights.http import HttpAccess, HttpClient, Probe, read_document
from lavatube.weights.hub import Hub
from lavatube.weights.local import LocalReader, fingerprint
from lavatube.weights.manifest import Manifest, ManifestFile
from lavatube.weights.options import Policy, ProvisionOptions, Trust
from lavatube.weights.patience import Patience, Transient
from lavatube.weights.uri import ModelUri

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


class Body(Protocol):
    """Bytes `start` to `stop` of a file; `version` changes when the file does, where the source can tell."""

    start: int
    stop: int
    version: str

    def readinto(self, buffer: memoryview) -> int: ...

    def close(self) -> None: ...


class Reader(Protocol):
    """Reads ranges; one a thread, but `abort` may come from another."""

    def open(self, location: str, start: int, stop: int, size: int) -> Body: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file and where it is; with neither digest nobody vouches for it."""

    path: str
    size: int
    location: str
    sha256: str = ""
    git_sha1: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """A set of files that can be fetched.

    `uri` is what is recorded: revision resolved, secrets cut. `identity` names the same bytes whenever it is met again;
    empty if nothing does.
    """

    uri: str
    name: str
    trust: Trust
    files: tuple[SourceFile, ...]
    connect: Callable[[], Reader]
    identity: str = ""

    @property
    def set_digest(self) -> str:
        """Empty as long as a sha256 is missing."""
        if not all(file.sha256 for file in self.files):
            return ""
        return Manifest(self.name, tuple(ManifestFile(f.path, f.size, f.sha256) for f in self.files)).set_digest

    @property
    def total_bytes(self) -> int:
        return sum(file.size for file in self.files)


def settle(model: ModelUri, options: ProvisionOptions) -> ModelUri:
    """The same model with its branch or tag replaced by the commit that it means now. Raises: SourceUnavailable."""
    if model.kind != "hub" or model.is_immutable:
        return model
    return replace(model, revision=_hub(model, options).commit(model.revision))


def resolve(model: ModelUri, options: ProvisionOptions, pinned: Manifest | None) -> Source:
    """Find out what a settled model consists of; with a pinned manifest only its files count.

    Raises: SourceUnavailable, UntrustedSource, InvalidManifest, UnsupportedCheckpoint.
    """
    if model.kind == "hub":
        return _resolve_hub(model, options, pinned)
    if model.kind == "http":
        return _resolve_http(model, options, pinned)
    return _resolve_folder(model, pinned)


def hub_identity(model: ModelUri, endpoint: str) -> str:
    """What names the files of a settled model of the hub."""
    return f"{endpoint.rstrip('/')} hf://{model.location}@{model.revision}"


def _resolve_folder(model: ModelUri, pinned: Manifest | None) -> Source:
    folder = Path(model.location)
    uri, beside = folder.as_uri(), folder / manifests.FILE_NAME
    manifest = manifests.read_manifest(beside) if pinned is None and beside.is_file() else pinned
    if manifest is not None:
        files = _listed(manifest, lambda path: str(folder / path))
        return Source(uri, manifest.name, "manifest" if pinned is None else "pinned", files, LocalReader)
    paths = manifests.list_folder(folder)
    unhashed = tuple(SourceFile(path, (folder / path).stat().st_size, str(folder / path)) for path in paths)
    return Source(uri, model.name, "local", unhashed, LocalReader, identity=f"{uri} {fingerprint(folder, paths)}")


def _resolve_hub(model: ModelUri, options: ProvisionOptions, pinned: Manifest | None) -> Source:
    hub, commit = _hub(model, options), model.revision
    uri = f"hf://{model.location}@{commit}"
    if pinned is not None:
        files = _listed(_own(pinned, hub, commit), lambda path: hub.location(commit, path))
        return Source(uri, pinned.name, "pinned", files, hub.connect)
    listed = {file.path: file for file in hub.files(commit)}
    wanted = [listed[path] for path in manifests.select_content(listed, uri)]
    files = tuple(SourceFile(f.path, f.size, hub.location(commit, f.path), f.sha256, f.git_sha1) for f in wanted)
    return Source(uri, model.name, "hub", files, hub.connect, hub_identity(model, options.hf_endpoint))


def _own(pinned: Manifest, hub: Hub, commit: str) -> Manifest:
    """What of a pinned set the repository itself has: parts that were joined to it come from their own."""
    if not pinned.has_companions:
        return pinned
    listed = {file.path for file in hub.files(commit)}
    return replace(pinned, files=tuple(file for file in pinned.files if file.path in listed))


def _hub(model: ModelUri, options: ProvisionOptions) -> Hub:
    secrets = {"Authorization": f"Bearer {options.hf_token}"} if options.hf_token else {}
    access = HttpAccess(options.hf_endpoint.rstrip("/"), options.policy, secrets)
    _check_scheme(access)
    return Hub(access, model.location)


def _resolve_http(model: ModelUri, options: ProvisionOptions, pinned: Manifest | None) -> Source:
    is_open = options.allow_unverified or pinned is not None
    access = HttpAccess(model.location, options.policy, allow_http=is_open)
    _check_scheme(access)
    uri = redact(model.location)
    manifest = pinned or _manifest_beside(access)
    if manifest is None and not options.allow_unverified:
        raise UntrustedSource(
            f"{uri} has no {manifests.FILE_NAME}, so nothing vouches for its files.",
            remedy="Write one with `lavatube lock` and put it beside them, give one with --lock, "
            "or take them as they are with --allow-unverified.",
        )
    if manifest is None:
        return _probe(model, access)
    files = _listed(manifest, lambda path: _below(access.root, path))
    trust: Trust = "pinned"
    if pinned is None:  # in plain text, whoever can change the files on the way can change the manifest too
        trust = "manifest" if _is_authentic(access.root) else "unverified"
    return Source(uri, manifest.name, trust, files, lambda: HttpClient(access))


def _manifest_beside(access: HttpAccess) -> Manifest | None:
    url = _below(access.root, manifests.FILE_NAME)
    found = read_document(access, url, manifests.MAX_MANIFEST_BYTES)
    return manifests.parse_manifest(found[0], redact(url)) if found else None


def _probe(model: ModelUri, access: HttpAccess) -> Source:
    """Ask for the usual files by name, and for the shards that an index names."""
    uri, paths = redact(access.root), [*USUAL, SINGLE, TORCH_SINGLE]
    for name in (INDEX, TORCH_INDEX):
        index = read_document(access, _below(access.root, name), manifests.MAX_MANIFEST_BYTES)
        if index is not None:
            paths += [name, *_shards(index[0], name, uri)]
            break
    with closing(HttpClient(access)) as client:
        probes = {path: _probe_file(client, _below(access.root, path), access.policy) for path in sorted(paths)}
    there = {path: probe for path, probe in probes.items() if probe is not None}
    found = {path: there[path] for path in manifests.select_content(there, uri)}
    files = tuple(SourceFile(path, probe.size, _below(access.root, path)) for path, probe in found.items())
    facts = [[path, probe.size, probe.version] for path, probe in found.items()]
    identity = f"{uri} {json.dumps(facts)}" if all(probe.version for probe in found.values()) else ""
    return Source(uri, model.name, "unverified", files, lambda: HttpClient(access), identity)


def _probe_file(client: HttpClient, url: str, policy: Policy) -> Probe | None:
    patience = Patience(redact(url), policy)
    while True:
        try:
            return client.probe(url)
        except Transient as error:
            patience.fail(error)


def _shards(index: bytes, name: str, where: str) -> list[str]:
    try:
        weight_map = json.loads(index, object_pairs_hook=manifests.unique_pairs)["weight_map"]
        shards = sorted(set(weight_map.values()))
        manifests.check_paths(shards, where)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidManifest(f"{where}: {name} has no weight_map of names.") from error
    return shards


def _listed(manifest: Manifest, locate: Callable[[str], str]) -> tuple[SourceFile, ...]:
    return tuple(SourceFile(file.path, file.size, locate(file.path), file.sha256) for file in manifest.files)


def _below(root: str, path: str) -> str:
    """The URL of a file in a folder; a signed query stays on."""
    parts = urlsplit(root)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{quote(path)}"))


def _is_authentic(root: str) -> bool:
    parts = urlsplit(root)
    return parts.scheme == "https" or is_loopback(parts.hostname or "")


def _check_scheme(access: HttpAccess) -> None:
    if urlsplit(access.root).scheme not in ("http", "https") or not urlsplit(access.root).hostname:
        raise InvalidSetting(f"{redact(access.root)} is no http(s) URL.")
    if not access.allow_http and not _is_authentic(access.root):
        raise UntrustedSource(
            f"{redact(access.root)} is plain http, which anybody on the way can change.",
            remedy="Use https, or pin the files with --lock.",
        )

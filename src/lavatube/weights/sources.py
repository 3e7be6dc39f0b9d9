"""A ModelUri becomes a Source: its files, who vouches for them, and readers of their ranges. Fetches no weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from lavatube.errors import InvalidManifest, InvalidSetting, SourceUnavailable, UntrustedSource
from lavatube.weights import manifest as manifests
from lavatube.weights.buckets import Bucket
from lavatube.weights.dial import is_loopback, redact
from lavatube.weights.http import HttpAccess, Probe
from lavatube.weights.hub import Hub
from lavatube.weights.local import fingerprint
from lavatube.weights.manifest import Manifest
from lavatube.weights.mirrors import with_mirrors
from lavatube.weights.options import ProvisionOptions, Trust
from lavatube.weights.places import BucketPlace, FolderPlace, HttpPlace, Place
from lavatube.weights.source import Source, SourceFile, list_files
from lavatube.weights.uri import ModelUri


def settle(model: ModelUri, options: ProvisionOptions) -> ModelUri:
    """The same model with its branch or tag replaced by the commit that it means now. Raises: SourceUnavailable."""
    if model.kind != "hub" or model.is_immutable:
        return model
    return replace(model, revision=_hub(model, options).commit(model.revision))


def resolve(model: ModelUri, options: ProvisionOptions, pinned: Manifest | None) -> Source:
    """Find out what a settled model consists of; with a pinned manifest only its files count.

    Raises: SourceUnavailable, UntrustedSource, InvalidManifest, UnsupportedCheckpoint.
    """
    resolve_kind = _resolve_hub if model.kind == "hub" else _resolve_place
    source = resolve_kind(model, options, pinned)
    return with_mirrors(source, [_mirror(uri, options) for uri in options.mirrors])


def hub_identity(model: ModelUri, endpoint: str) -> str:
    """What names the files of a settled model of the hub."""
    return f"{endpoint.rstrip('/')} hf://{model.location}@{model.revision}"


def _resolve_hub(model: ModelUri, options: ProvisionOptions, pinned: Manifest | None) -> Source:
    hub, commit = _hub(model, options), model.revision
    uri = f"hf://{model.location}@{commit}"
    if pinned is not None:
        files = list_files(_own(pinned, hub, commit), lambda path: hub.location(commit, path))
        return Source(uri, pinned.name, "pinned", files, hub.connect, chunk_bytes=pinned.chunk_bytes)
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


def _resolve_place(model: ModelUri, options: ProvisionOptions, pinned: Manifest | None) -> Source:
    place, own_trust = _open_place(model, options, pinned)
    manifest = pinned or _manifest_beside(place)
    trust = own_trust if pinned is None else "pinned"
    if model.is_archive:
        return _archive(model, place, manifest, trust, options)
    if model.file and manifest is not None:
        manifest = _of_one_file(manifest, model.file, place.uri)
    if manifest is not None:
        files = list_files(manifest, place.locate)
        return Source(place.uri, manifest.name, trust, files, place.connect, chunk_bytes=manifest.chunk_bytes)
    return _unlisted(model, place, options)


def _open_place(model: ModelUri, options: ProvisionOptions, pinned: Manifest | None) -> tuple[Place, Trust]:
    """Where the files are, and what a manifest beside them is worth."""
    if model.kind == "http":
        access = HttpAccess(model.location, options.policy, allow_http=options.allow_unverified or pinned is not None)
        _check_scheme(access)
        # In plain text, whoever can change the files on the way can change the manifest too.
        return HttpPlace(access), "manifest" if _is_authentic(access.root) else "unverified"
    if model.kind == "bucket":
        return BucketPlace(Bucket(model.location, options)), "manifest"
    return FolderPlace(Path(model.location)), "manifest"


def _manifest_beside(place: Place) -> Manifest | None:
    data = place.document(manifests.FILE_NAME)
    return None if data is None else manifests.parse_manifest(data, f"{place.uri}/{manifests.FILE_NAME}")


def _of_one_file(manifest: Manifest, path: str, where: str) -> Manifest:
    files = tuple(file for file in manifest.files if file.path == path)
    if not files:
        raise InvalidManifest(f"{where}: the manifest does not list {path}.", remedy="Write it with `lavatube lock`.")
    return replace(manifest, files=files)


def _unlisted(model: ModelUri, place: Place, options: ProvisionOptions) -> Source:
    """What there is, with nobody to vouch for it but this machine."""
    _check_allowed(model, place, options)
    found = {model.file: _probe(place, model.file)} if model.file else place.listing()
    paths = manifests.select_content(found, place.uri)
    files = tuple(SourceFile(path, found[path].size, place.locate(path)) for path in paths)
    if model.kind == "file":
        identity = f"{place.uri} {fingerprint(Path(model.location), paths)}"
        return Source(place.uri, model.name, "local", files, place.connect, identity)
    identity = _identity(place.uri, {path: found[path] for path in paths})
    return Source(place.uri, model.name, "unverified", files, place.connect, identity)


def _archive(
    model: ModelUri, place: Place, manifest: Manifest | None, trust: Trust, options: ProvisionOptions
) -> Source:
    """One file with all others in it; a manifest says what must come out."""
    if manifest is None:
        _check_allowed(model, place, options)
        trust = "local" if model.kind == "file" else "unverified"
    probe = _probe(place, model.file)
    file = SourceFile(model.file, probe.size, place.locate(model.file))
    return Source(
        f"{place.uri}/{model.file}", manifest.name if manifest else model.name, trust, (file,), place.connect,
        "" if manifest else _identity(place.uri, {model.file: probe}), is_archive=True, contents=manifest,
    )  # fmt: skip


def _check_allowed(model: ModelUri, place: Place, options: ProvisionOptions) -> None:
    if model.kind != "file" and not options.allow_unverified:
        raise UntrustedSource(
            f"{place.uri} has no {manifests.FILE_NAME}, so nothing vouches for its files.",
            remedy="Write one with `lavatube lock` and put it beside them, give one with --lock, "
            "or take them as they are with --allow-unverified.",
        )


def _probe(place: Place, path: str) -> Probe:
    probe = place.probe(path)
    if probe is None:
        raise SourceUnavailable(f"{place.uri} has no {path}.", remedy="Check the address.")
    return probe


def _identity(uri: str, found: Mapping[str, Probe]) -> str:
    facts = [[path, probe.size, probe.version] for path, probe in found.items()]
    return f"{uri} {json.dumps(facts)}" if all(probe.version for probe in found.values()) else ""


def _mirror(uri: str, options: ProvisionOptions) -> HttpPlace:
    """Its bytes are checked against digests from elsewhere, so that plain http will do."""
    access = HttpAccess(uri.rstrip("/"), options.policy, allow_http=True)
    _check_scheme(access)
    return HttpPlace(access)


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

"""A ModelUri becomes a Source: its files, who vouches for them, and readers of their ranges. Fetches no weights.

What only one kind of source needs is imported when one is named: all of it takes longer than to find a ready set.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from lavatube.errors import InvalidManifest, SourceUnavailable, UntrustedSource
from lavatube.weights import content
from lavatube.weights import manifest as manifests
from lavatube.weights.local import fingerprint
from lavatube.weights.manifest import Manifest
from lavatube.weights.options import ProvisionOptions, Trust
from lavatube.weights.places import FolderPlace, Place
from lavatube.weights.source import Probe, Source, SourceFile, list_files
from lavatube.weights.uri import ModelUri


def settle(model: ModelUri, options: ProvisionOptions) -> ModelUri:
    """The same model with its branch or tag replaced by the commit that it means now. Raises: SourceUnavailable."""
    if model.kind != "hub" or model.is_immutable:
        return model
    from lavatube.weights.repository import find_commit

    return replace(model, revision=find_commit(model, options))


def resolve(model: ModelUri, options: ProvisionOptions, pinned: Manifest | None) -> Source:
    """Find out what a settled model consists of; with a pinned manifest only its files count.

    Raises: SourceUnavailable, UntrustedSource, InvalidManifest, UnsupportedCheckpoint.
    """
    if model.kind == "hub":
        from lavatube.weights.repository import repository_source

        source = repository_source(model, options, pinned)
    else:
        source = _resolve_place(model, options, pinned)
    mirrors = _mirrors(options)
    if mirrors:
        from lavatube.weights.mirrors import with_mirrors

        source = with_mirrors(source, mirrors, options.policy)
    return source


def _mirrors(options: ProvisionOptions) -> list[Place]:
    if not options.mirrors:
        return []
    from lavatube.weights.web import mirror_place

    return [mirror_place(uri, options) for uri in options.mirrors]


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
        from lavatube.weights.http import HttpAccess
        from lavatube.weights.web import HttpPlace, check_scheme, is_authentic

        access = HttpAccess(model.location, options.policy, allow_http=options.allow_unverified or pinned is not None)
        check_scheme(access)
        # In plain text, whoever can change the files on the way can change the manifest too.
        return HttpPlace(access), "manifest" if is_authentic(access.root) else "unverified"
    if model.kind == "bucket":
        from lavatube.weights.buckets import Bucket, BucketPlace

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
    found = {model.file: _probe(model.file, place)} if model.file else place.listing()
    paths = content.select_content(found, place.uri)
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
    probe = _probe(model.file, place, *(_mirrors(options) if manifest else []))
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


def _probe(path: str, place: Place, *mirrors: Place) -> Probe:
    """What the first place says that has it. Raises: SourceUnavailable, as the first one failed."""
    failure = SourceUnavailable(f"{place.uri} has no {path}.", remedy="Check the address.")
    for each in (place, *mirrors):
        try:
            probe = each.probe(path)
        except SourceUnavailable as error:
            failure = error if each is place else failure
        else:
            if probe is not None:
                return probe
    raise failure


def _identity(uri: str, found: Mapping[str, Probe]) -> str:
    facts = [[path, probe.size, probe.version] for path, probe in found.items()]
    return f"{uri} {json.dumps(facts)}" if all(probe.version for probe in found.values()) else ""

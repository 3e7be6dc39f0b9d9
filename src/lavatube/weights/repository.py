"""A repository of the hub as a source: the files at one commit, for which the hub's digests vouch."""

from __future__ import annotations

from dataclasses import replace

from lavatube.weights import content
from lavatube.weights.http import HttpAccess
from lavatube.weights.hub import Hub
from lavatube.weights.manifest import Manifest
from lavatube.weights.options import ProvisionOptions
from lavatube.weights.source import Source, SourceFile, list_files
from lavatube.weights.uri import ModelUri, hub_identity
from lavatube.weights.web import check_scheme


def find_commit(model: ModelUri, options: ProvisionOptions) -> str:
    """What its branch or tag means now. Raises: SourceUnavailable."""
    return _hub(model, options).commit(model.revision)


def repository_source(model: ModelUri, options: ProvisionOptions, pinned: Manifest | None) -> Source:
    """Raises: as `sources.resolve`."""
    hub, commit = _hub(model, options), model.revision
    uri = f"hf://{model.location}@{commit}"
    if pinned is not None:
        files = list_files(_own(pinned, hub, commit), lambda path: hub.location(commit, path))
        return Source(uri, pinned.name, "pinned", files, hub.connect, chunk_bytes=pinned.chunk_bytes)
    listed = {file.path: file for file in hub.files(commit)}
    wanted = [listed[path] for path in content.select_content(listed, uri)]
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
    check_scheme(access)
    return Hub(access, model.location)

"""A checkpoint and the models that it is put together from, joined to one folder.

Each part lies in a folder of its own inside. A set of the cache is joined to a new set, of the same blobs; a folder of
this machine, which is not ours to write to, to a folder of links in the cache.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar, get_args

from lavatube.checkpoint.parts import BASE, Part, Parts, read_parts
from lavatube.errors import InvalidSetting, SourceUnavailable, UnsupportedCheckpoint, UntrustedSource
from lavatube.weights.cache import Cache, open_cache
from lavatube.weights.manifest import Manifest, list_folder
from lavatube.weights.marker import ReadySet
from lavatube.weights.options import Provisioned, ProvisionOptions, Trust
from lavatube.weights.parts import cache_border
from lavatube.weights.uri import parse_model

File = TypeVar("File")

TOKENIZER_FILES: Final = (
    "added_tokens.json",
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
)
"""An adapter that brings none of these has those of its base."""


def join_parts(
    main: Provisioned,
    options: ProvisionOptions,
    pinned: Manifest | None,
    provision_part: Callable[[str, Manifest | None], Provisioned],
) -> Provisioned:
    """The checkpoint with all that it needs. `provision_part` is called for each part that is not here, with its URI
    and, where there is a lock file, what that says of it.

    Raises: OperatorError.
    """
    parts, whole = _read_parts(main.folder), main
    if parts.missing or _lacks_tokenizer(main.folder, parts):
        fetched = {str(part.kind): provision_part(_uri(part), _pinned_part(part, pinned)) for part in parts.missing}
        whole = _join(main, options, parts, fetched)
    if pinned is not None and main.set_digest != pinned.set_digest:
        _check_complete(whole, pinned, open_cache(options))
    return whole


def _pinned_part(part: Part, pinned: Manifest | None) -> Manifest | None:
    """Raises: UntrustedSource if there is a lock file, and the part is not in it."""
    if pinned is None:
        return None
    companion = pinned.companion(part.kind)
    if not companion.files:
        raise UntrustedSource(
            f"The checkpoint needs {part.reference}, which the lock file says nothing of.",
            remedy="`lavatube lock` of the checkpoint's repository writes one that covers it.",
        )
    return companion


def _check_complete(whole: Provisioned, pinned: Manifest, cache: Cache) -> None:
    ready = cache.find(whole.set_digest)
    there = {(file.path, file.sha256) for file in ready.manifest.files} if ready else set()
    absent = sorted(file.path for file in pinned.files if (file.path, file.sha256) not in there)
    if absent:
        raise SourceUnavailable(
            f"{whole.source} has no {absent[0]}, which the lock file lists.",
            remedy="Give the revision that was locked, as org/name@revision.",
        )


def _join(
    main: Provisioned, options: ProvisionOptions, parts: Parts, fetched: Mapping[str, Provisioned]
) -> Provisioned:
    cache, trusts = open_cache(options), [main.trust, *(one.trust for one in fetched.values())]
    trust: Trust = max(trusts, key=get_args(Trust).index)
    from_cache = main.from_cache and all(one.from_cache for one in fetched.values())
    ready = cache.find(main.set_digest) if main.set_digest else None
    if ready is not None and ready.folder == main.folder:
        found = {kind: cache.find(one.set_digest) for kind, one in fetched.items()}
        ready = _join_sets(cache, ready, {kind: one for kind, one in found.items() if one is not None})
        digest, total_bytes = ready.manifest.set_digest, ready.manifest.total_bytes
        return Provisioned(ready.folder, digest, trust, total_bytes, from_cache, main.source)
    here = {str(part.kind): part.folder for part in (parts.tower, parts.base) if part is not None and part.folder}
    folder = _join_folders(cache, main.folder, here | {kind: one.folder for kind, one in fetched.items()})
    total_bytes = main.total_bytes + sum(one.total_bytes for one in fetched.values())
    return Provisioned(folder, "", trust, total_bytes, from_cache, main.source)


def _read_parts(folder: Path) -> Parts:
    try:
        return read_parts(folder)
    except UnsupportedCheckpoint:  # what is wrong with its config is said by whoever reads all of it
        return Parts()


def _lacks_tokenizer(folder: Path, parts: Parts) -> bool:
    """Whether it is an adapter that counts on its base's."""
    return parts.base is not None and not any((folder / name).is_file() for name in TOKENIZER_FILES)


def _uri(part: Part) -> str:
    """A part lies nowhere on this machine, so what config.json calls it is a repository of the hub."""
    uri = f"hf://{part.reference.removeprefix('hf://')}"
    try:
        parse_model(uri)
    except InvalidSetting:
        part.require()
    return uri


def _join_sets(cache: Cache, main: ReadySet, parts: Mapping[str, ReadySet]) -> ReadySet:
    """A set of the files of `main` and of the parts. Raises: CacheUnusable."""
    files = {file.path: file for file in main.manifest.files}
    for name, part in parts.items():
        files |= {f"{name}/{file.path}": replace(file, path=f"{name}/{file.path}") for file in part.manifest.files}
    files = {path: replace(file, path=path) for path, file in _with_tokenizer(files).items()}
    listed = (replace(file, chunks=b"") for file in files.values())  # the parts' grids may differ
    manifest = Manifest(main.manifest.name, tuple(sorted(listed, key=lambda file: file.path)))
    return cache.find(manifest.set_digest) or cache.publish(manifest, main.source)


def _join_folders(cache: Cache, main: Path, parts: Mapping[str, Path]) -> Path:
    """A folder whose links lead to the files of `main` and of the parts. Raises: CacheUnusable."""
    cache.prepare()
    targets = {path: main / path for path in list_folder(main)}
    for name, folder in parts.items():
        targets |= {f"{name}/{path}": folder / path for path in list_folder(folder)}
    targets = {path: target.absolute() for path, target in sorted(_with_tokenizer(targets).items())}
    identity = "\n".join(f"{path} {target}" for path, target in targets.items())
    joined = cache.joined / hashlib.sha256(identity.encode()).hexdigest()
    if joined.is_dir():
        return joined
    fresh = joined.with_name(f".{secrets.token_hex(8)}")
    with cache_border(f"{joined} can't be made"):
        for path, target in targets.items():
            (fresh / path).parent.mkdir(parents=True, exist_ok=True)
            (fresh / path).symlink_to(target)
        try:
            fresh.rename(joined)
        except OSError:
            shutil.rmtree(fresh)
            if not joined.is_dir():  # else another process was faster, and made the same
                raise
    return joined


def _with_tokenizer(files: Mapping[str, File]) -> dict[str, File]:
    """The files by path, and at the top those of the base's tokenizer where there are none."""
    has_own = any(name in files for name in TOKENIZER_FILES)
    places = {} if has_own else {name: f"{BASE}/{name}" for name in TOKENIZER_FILES}
    return {name: files[place] for name, place in places.items() if place in files} | dict(files)

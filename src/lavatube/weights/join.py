"""A checkpoint and the models that it is put together from, joined to one folder.

Each part lies in a folder of its own inside. A set of the cache is joined to a new set, of the same blobs; a folder of
this machine, which is not ours to write to, to a folder of links in the cache.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import get_args

from lavatube.checkpoint.parts import BASE, Part, Parts, read_parts
from lavatube.errors import InvalidSetting, SourceUnavailable, UnsupportedCheckpoint, UntrustedSource
from lavatube.weights.cache import Cache, open_cache
from lavatube.weights.content import is_weights, list_folder
from lavatube.weights.manifest import Manifest
from lavatube.weights.marker import ReadySet
from lavatube.weights.options import Provisioned, ProvisionOptions, Trust
from lavatube.weights.parts import cache_border
from lavatube.weights.source import Source
from lavatube.weights.uri import parse_model
from lavatube.weights.whole import TOKENIZER_FILES, Frame, join_manifests, with_tokenizer

ProvisionPart = Callable[[str, Manifest | None, Frame | None], Provisioned]
"""Of a part's URI, of what the lock file says of it, if there is one, and of what is around it, if it may be shown
while it is fetched."""


def join_parts(
    main: Provisioned, options: ProvisionOptions, pinned: Manifest | None, provision_part: ProvisionPart
) -> Provisioned:
    """The checkpoint with all that it needs; `provision_part` is called for each part that is not here.

    Raises: OperatorError.
    """
    parts, whole = _read_parts(main.folder), main
    if parts.missing or _lacks_tokenizer(main.folder, parts):
        fetched: dict[str, Provisioned] = {}
        for part in parts.missing:
            frame = _frame_of(part, main, options, parts, fetched) if part is parts.missing[-1] else None
            fetched[str(part.kind)] = provision_part(_uri(part), _pinned_part(part, pinned), frame)
        whole = _join(main, options, parts, fetched)
    if pinned is not None and main.set_digest != pinned.set_digest:
        _check_complete(whole, pinned, _look_into(options))
    return whole


def may_lack_parts(source: Source) -> bool:
    """Whether its small files must be read before it is known what else is needed.

    A checkpoint that says how pictures are prepared has the tower that they are prepared for.
    """
    return not any(file.path == "preprocessor_config.json" for file in source.files)


def frame_main(
    source: Source, digests: Mapping[str, str], cache: Cache, pinned: Manifest | None, provision_part: ProvisionPart
) -> Frame | None:
    """What is around a checkpoint whose weights are still to come: its tower, which is needed first, is brought first.

    `digests` has the sha256 of its other files, which are in the cache. None if it waits for a base, which is most of
    the whole, and comes last.

    Raises: OperatorError.
    """
    if not may_lack_parts(source):
        return Frame()
    parts = _foresee(source, digests, cache)
    if any(part.kind == BASE for part in parts.missing):
        return None
    fetched = {str(part.kind): provision_part(_uri(part), _pinned_part(part, pinned), None) for part in parts.missing}

    def complete(own: Provisioned, manifest: Manifest) -> Provisioned:
        joined = join_manifests(manifest, _manifests(cache, fetched)) if fetched else manifest
        return _describe(own, own.folder, joined, fetched.values())

    return Frame("", _in_folders({kind: one.folder for kind, one in fetched.items()}), complete)


def _foresee(source: Source, digests: Mapping[str, str], cache: Cache) -> Parts:
    """What a checkpoint will turn out to be put together from."""
    from tempfile import TemporaryDirectory  # few need it

    with TemporaryDirectory() as folder:
        for file in source.files:
            place = Path(folder, file.path)
            place.parent.mkdir(exist_ok=True)
            if is_weights(file.path):
                place.touch()  # that there is such a file is what counts
            else:
                place.symlink_to(cache.find_blob(file.sha256 or digests[file.path]).absolute())
        return _read_parts(Path(folder))


def _frame_of(
    last: Part, main: Provisioned, options: ProvisionOptions, parts: Parts, fetched: Mapping[str, Provisioned]
) -> Frame:
    """What is around the part that comes last: all else."""
    cache, others = _look_into(options), dict(fetched)
    ready = _find_main(cache, main)

    def complete(own: Provisioned, manifest: Manifest) -> Provisioned:
        joined = None
        if ready is not None:
            joined = join_manifests(ready.manifest, _manifests(cache, others) | {str(last.kind): manifest})
        return _describe(main, own.folder, joined, [*others.values(), own])

    return Frame(str(last.kind), _targets(main, parts, others), complete)


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
    cache = _look_into(options)
    ready = _find_main(cache, main)
    if ready is None:
        folder = _join_folders(cache, with_tokenizer(_targets(main, parts, fetched)))
        return _describe(main, folder, None, fetched.values())
    joined = join_manifests(ready.manifest, _manifests(cache, fetched))
    whole = cache.find(joined.set_digest) or cache.publish(joined, ready.source)
    return _describe(main, whole.folder, joined, fetched.values())


def _look_into(options: ProvisionOptions) -> Cache:
    """The cache, whose sets were verified as thoroughly as is wanted when they were provisioned."""
    return open_cache(replace(options, is_thorough=False))


def _find_main(cache: Cache, main: Provisioned) -> ReadySet | None:
    """A set of the cache; None for a folder of this machine."""
    ready = cache.find(main.set_digest) if main.set_digest else None
    return ready if ready is not None and ready.folder == main.folder else None


def _manifests(cache: Cache, parts: Mapping[str, Provisioned]) -> dict[str, Manifest]:
    found = {kind: cache.find(one.set_digest) for kind, one in parts.items()}
    return {kind: ready.manifest for kind, ready in found.items() if ready is not None}


def _describe(main: Provisioned, folder: Path, joined: Manifest | None, parts: Collection[Provisioned]) -> Provisioned:
    """The whole; one that has no manifest is no set of the cache."""
    trust: Trust = max([main.trust, *(one.trust for one in parts)], key=get_args(Trust).index)
    total_bytes = main.total_bytes + sum(one.total_bytes for one in parts)
    from_cache = main.from_cache and all(one.from_cache for one in parts)
    digest, total_bytes = (joined.set_digest, joined.total_bytes) if joined else ("", total_bytes)
    return Provisioned(folder, digest, trust, total_bytes, from_cache, main.source)


def _targets(main: Provisioned, parts: Parts, fetched: Mapping[str, Provisioned]) -> dict[str, Path]:
    """Where each file of the whole is, by its path in there."""
    here = {str(part.kind): part.folder for part in (parts.tower, parts.base) if part is not None and part.folder}
    own = {path: main.folder / path for path in list_folder(main.folder)}
    return own | _in_folders(here | {kind: one.folder for kind, one in fetched.items()})


def _in_folders(folders: Mapping[str, Path]) -> dict[str, Path]:
    return {f"{name}/{path}": folder / path for name, folder in folders.items() for path in list_folder(folder)}


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


def _join_folders(cache: Cache, files: Mapping[str, Path]) -> Path:
    """A folder of links to `files`. Raises: CacheUnusable."""
    cache.prepare()
    targets = {path: target.absolute() for path, target in sorted(files.items())}
    identity = "\n".join(f"{path} {target}" for path, target in targets.items())
    joined = cache.joined / hashlib.sha256(identity.encode()).hexdigest()
    if joined.is_dir():
        return joined
    fresh = joined.with_name(f".{os.urandom(8).hex()}")
    with cache_border(f"{joined} can't be made"):
        for path, target in targets.items():
            (fresh / path).parent.mkdir(parents=True, exist_ok=True)
            (fresh / path).symlink_to(target)
        try:
            fresh.rename(joined)
        except OSError:
            from shutil import rmtree

            rmtree(fresh)
            if not joined.is_dir():  # else another process was faster, and made the same
                raise
    return joined

"""What MODEL means, decided in one place: text in, a ModelUri out. Looks at the file system only to tell a folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, Literal
from urllib.parse import unquote, urlsplit, urlunsplit

from lavatube.errors import InvalidSetting
from lavatube.weights import content, manifest

EMBEDDED: Final = Path(__file__).parent.parent / "tiny"

_REPOSITORY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,254}")
_REMEDY: Final = (
    "MODEL is tiny, a directory, org/name[@revision], hf://…, https://…, s3://…, gs://…, az://… or file://…"
)
ARCHIVES: Final = (".tar", ".tar.gz", ".tgz")


@dataclass(frozen=True, slots=True)
class ModelUri:
    """Where a model lies.

    folder: a directory, used in place; file: a directory, copied into the cache; http: a directory's URL without its
    last slash, query kept; bucket: a prefix, as its URI; hub: a repository and its revision. `file` is the one file in
    there that is meant, weights or an archive; empty: all.
    """

    kind: Literal["folder", "file", "http", "bucket", "hub"]
    location: str
    revision: str = ""
    file: str = ""

    @property
    def is_immutable(self) -> bool:
        """Whether it names the same bytes for ever."""
        return self.kind == "hub" and bool(_COMMIT.fullmatch(self.revision))

    @property
    def is_archive(self) -> bool:
        return self.file.endswith(ARCHIVES)

    @property
    def name(self) -> str:
        """What the set is called when nobody named it."""
        if self.file:
            return self.file.partition(".")[0] or "model"
        return urlsplit(self.location).path.rstrip("/").rsplit("/", 1)[-1] or "model"


def parse_model(text: str) -> ModelUri:
    """Raises: InvalidSetting, with what MODEL may be."""
    if text == "tiny":
        return ModelUri("file", str(EMBEDDED))
    scheme, separator, rest = text.partition("://")
    if separator:
        return _parse_scheme(text, scheme.lower(), rest)
    if not text or not text.isprintable():
        raise InvalidSetting(f"{text!r:.200} is no model that can be found.", param="model", remedy=_REMEDY)
    folder = _folder(text)
    if folder.is_dir():
        return ModelUri("folder", str(folder.absolute()))
    if text.startswith(("/", "./", "../", "~")):
        raise InvalidSetting(f"There is no directory {text}.", param="model", remedy=_REMEDY)
    if "/" not in text:
        raise InvalidSetting(
            f"There is no directory {text}, and it names no repository.", param="model", remedy=_REMEDY
        )
    return _parse_hub(text, text)


def _folder(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # ~somebody who has no home
        return Path(text)


def _parse_scheme(text: str, scheme: str, rest: str) -> ModelUri:
    if scheme == "hf":
        return _parse_hub(text, rest)
    if scheme == "file":
        return _parse_file(text)
    if scheme in ("http", "https"):
        return _parse_http(text)
    if scheme in ("s3", "gs", "az"):
        return _parse_bucket(text, scheme, rest)
    if scheme == "oci":
        raise InvalidSetting("This version can't read oci://.", param="model", remedy=_REMEDY)
    raise InvalidSetting(f"{scheme!r:.40}:// is not a source of models.", param="model", remedy=_REMEDY)


def _parse_hub(text: str, rest: str) -> ModelUri:
    repository, _, revision = rest.partition("@")
    revision = revision or ("main" if "@" not in rest else "")
    is_plain = ".." not in rest and "--" not in repository
    if not is_plain or not _REPOSITORY.fullmatch(repository) or not _REVISION.fullmatch(revision):
        raise InvalidSetting(f"{text!r:.200} is no model that can be found.", param="model", remedy=_REMEDY)
    return ModelUri("hub", repository, revision)


def _parse_file(text: str) -> ModelUri:
    parts = urlsplit(text)
    path = Path(unquote(parts.path))
    if parts.netloc not in ("", "localhost") or not path.is_absolute() or "\0" in str(path):
        raise InvalidSetting(f"{text!r:.200} is not of the form file:///absolute/path.", param="model")
    if path.is_file() and _own_file(path.name):
        return ModelUri("file", str(path.parent), file=path.name)
    if not path.is_dir():
        raise InvalidSetting(f"There is no directory {path}.", param="model")
    return ModelUri("file", str(path))


def _parse_bucket(text: str, scheme: str, rest: str) -> ModelUri:
    bucket, _, prefix = rest.partition("/")
    segments = [segment for segment in prefix.split("/") if segment]
    is_plain = text.isascii() and text.isprintable() and not set("?#@\\ ") & set(rest) and ".." not in segments
    if not is_plain or not _BUCKET.fullmatch(bucket):
        raise InvalidSetting(f"{text!r:.200} is not of the form {scheme}://bucket/prefix.", param="model")
    if segments and segments[-1] == manifest.FILE_NAME:
        segments.pop()
    file = _own_file(segments[-1]) if segments else ""
    folder = segments[:-1] if file else segments
    return ModelUri("bucket", "/".join([f"{scheme}://{bucket}", *folder]), file=file)


def _own_file(name: str) -> str:
    """The name if it is one of a file that can be a model by itself."""
    is_weights = any(fnmatchcase(name, pattern) for pattern in content.WEIGHTS)
    return name if is_weights or name.endswith(ARCHIVES) else ""


def _parse_http(text: str) -> ModelUri:
    try:
        parts = urlsplit(text)
        has_port = parts.port is None or parts.port > 0
    except ValueError:
        has_port = False
    if not has_port or not parts.hostname or not text.isascii() or not text.isprintable() or " " in text:
        raise InvalidSetting("MODEL is not a well-formed URL.", param="model", remedy=_REMEDY)
    if "@" in parts.netloc or parts.fragment:
        raise InvalidSetting("MODEL has a user name, a password or a fragment in its URL.", param="model")
    path = parts.path.removesuffix(manifest.FILE_NAME).rstrip("/")
    file = _own_file(unquote(path.rpartition("/")[2]))
    folder = path.rpartition("/")[0] if file else path
    return ModelUri("http", urlunsplit((parts.scheme.lower(), parts.netloc, folder, parts.query, "")), file=file)


def hub_identity(model: ModelUri, endpoint: str) -> str:
    """What names the files of a settled model of the hub."""
    return f"{endpoint.rstrip('/')} hf://{model.location}@{model.revision}"

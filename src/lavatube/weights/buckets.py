"""Objects of a bucket (s3://, gs://, az://) as a source, through obstore: a listing, and readers of ranges.

obstore finds the credentials where each cloud's own tools have them; they stay inside it. The one module that imports
it, and only when a bucket is named. Knows no digests.
"""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from lavatube.errors import InvalidSetting, SourceUnavailable, UntrustedSource
from lavatube.weights import manifest as manifests
from lavatube.weights.dial import is_loopback
from lavatube.weights.options import Policy, ProvisionOptions
from lavatube.weights.patience import Crowded, Patience, Transient
from lavatube.weights.source import Probe, Reader

SCHEMES: Final = ("s3", "gs", "az")
WHOLE_BODY: Final = timedelta(hours=6)
"""obstore's `timeout` covers all of a body; a stall is seen by `read_timeout`."""
READ_BYTES: Final = 1
"""The least that obstore waits for: whoever reads wants to see how slow it is, and to be interrupted."""
PIECE_S: Final = 1.0
_STATUS: Final = re.compile(r"non-2xx status code: (\d{3})")
_REMEDY: Final = "Check the bucket's name, its region and the credentials; a public bucket needs --bucket-unsigned."


class Bucket:
    """One prefix of one bucket."""

    def __init__(self, uri: str, options: ProvisionOptions) -> None:
        """Raises: InvalidSetting for a bucket that can't be named so, or without obstore."""
        self.uri = uri
        self._policy = options.policy
        self._store = _open_store(uri, options)

    def document(self, path: str, max_bytes: int) -> bytes | None:
        """A small object; None if there is none. Raises: SourceUnavailable."""
        probe = self.probe(path)
        if probe is None:
            return None
        if probe.size > max_bytes:
            raise SourceUnavailable(f"{self.uri}/{path} is longer than {max_bytes} bytes, which no such file is.")
        data: bytes | None = self._ask(path, lambda: bytes(_obstore().get(self._store, path).bytes()))
        return data

    def probe(self, path: str) -> Probe | None:
        """Length and version of an object; None if there is none. Raises: SourceUnavailable."""
        meta = self._ask(path, lambda: _obstore().head(self._store, path))
        return None if meta is None else Probe(meta["size"], meta["e_tag"] or "")

    def objects(self) -> dict[str, Probe]:
        """All objects under the prefix, by path. Raises: SourceUnavailable."""
        pages = self._ask("", lambda: list(_obstore().list(self._store))) or []
        return {str(meta["path"]): Probe(meta["size"], meta["e_tag"] or "") for page in pages for meta in page}

    def connect(self) -> BucketReader:
        return BucketReader(self._store, self.uri)

    def _ask(self, path: str, ask: Callable[[], Any]) -> Any:
        """An answer of the bucket; None for an object that is not there."""
        patience = Patience(f"{self.uri}/{path}", self._policy)
        while True:
            try:
                with _border(f"{self.uri}/{path}"):
                    return ask()
            except FileNotFoundError:
                return None
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


class BucketReader:
    """Reads ranges of objects. Locations are paths under the prefix."""

    def __init__(self, store: Any, uri: str) -> None:
        self._store = store
        self._uri = uri
        self._is_aborted = False

    def open(self, location: str, start: int, stop: int, size: int) -> BucketBody:
        """Raises: Transient; SourceUnavailable for an object that is missing, or of another size."""
        where = f"{self._uri}/{location}"
        try:
            with _border(where):
                found = _obstore().get(self._store, location, options={"range": (start, stop)})
        except FileNotFoundError as error:
            raise SourceUnavailable(f"{where}: there is no such object.", remedy=_REMEDY) from error
        if found.meta["size"] != size:
            raise SourceUnavailable(f"{where} has {found.meta['size']} bytes where {size} were expected.")
        if tuple(found.range) != (start, stop):
            raise Transient(f"bytes {start}-{stop - 1} were asked for, but {found.range} came")
        return BucketBody(self, found, where)

    def close(self) -> None:
        pass

    def abort(self) -> None:
        """The body that is being read ends with its next piece: obstore has no way to end it sooner."""
        self._is_aborted = True

    @property
    def is_aborted(self) -> bool:
        return self._is_aborted


class BucketBody:
    """A range of an object as it comes in."""

    def __init__(self, reader: BucketReader, found: Any, where: str) -> None:
        self.start, self.stop = found.range
        self.version = found.meta["e_tag"] or ""
        self._reader = reader
        self._where = where
        self._pieces: Iterator[Any] = iter(found.stream(min_chunk_size=READ_BYTES))
        self._rest = memoryview(b"")

    def readinto(self, buffer: memoryview) -> int:
        """What came in a second, at least one byte. Raises: Transient."""
        deadline, filled = time.monotonic() + PIECE_S, 0
        while filled < len(buffer) and (not filled or time.monotonic() < deadline):
            if not self._rest:
                self._rest = self._next_piece()
            count = min(len(buffer) - filled, len(self._rest))
            buffer[filled : filled + count] = self._rest[:count]
            self._rest = self._rest[count:]
            filled += count
        return filled

    def _next_piece(self) -> memoryview:
        if self._reader.is_aborted:
            raise Transient("aborted")
        with _border(self._where):
            piece = next(self._pieces, None)
        if not piece:
            raise Transient("the body ended early")
        return memoryview(piece).cast("B")

    def close(self) -> None:
        self._pieces = iter(())


class _border:  # noqa: N801 - a context manager, used like a function
    """Where obstore's errors become ours; its texts hold URLs and headers, so nothing of them is passed on."""

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or not isinstance(error, _foreign_errors()) or isinstance(error, FileNotFoundError):
            return
        name = type(error).__name__
        if name in ("PermissionDeniedError", "UnauthenticatedError", "PermissionError"):
            raise SourceUnavailable(f"{self._where}: the bucket refuses access.", remedy=_REMEDY) from error
        status = _STATUS.search(str(error))
        if status is not None:
            raise (Crowded if status[1] in ("429", "503") else Transient)(f"status {status[1]}") from error
        raise Transient(f"{name.removesuffix('Error').lower()} error of the bucket") from error


def _foreign_errors() -> tuple[type[BaseException], ...]:
    exceptions = importlib.import_module("obstore.exceptions")
    return (exceptions.BaseError, OSError)


def _obstore() -> Any:
    try:
        return importlib.import_module("obstore")
    except ImportError as error:
        raise InvalidSetting(
            "Buckets are read with obstore, which is not installed.",
            param="model",
            remedy="pip install 'lavatube[cloud]', or give the bucket's https:// address.",
        ) from error


def _open_store(uri: str, options: ProvisionOptions) -> Any:
    _obstore()
    endpoint = options.bucket_endpoint
    is_plain = urlsplit(endpoint).scheme == "http"
    if is_plain and not is_loopback(urlsplit(endpoint).hostname or ""):
        raise UntrustedSource(f"{endpoint} is plain http, which anybody on the way can change.", remedy="Use https.")
    config: dict[str, object] = {"skip_signature": True} if options.bucket_unsigned else {}
    if endpoint:
        config["base_url" if urlsplit(uri).scheme == "gs" else "endpoint"] = endpoint
    try:
        return importlib.import_module("obstore.store").from_url(
            uri,
            client_options=_client_options(options.policy, allow_http=is_plain),
            retry_config={"max_retries": 0, "retry_timeout": WHOLE_BODY},  # how often is for Patience to say
            **config,
        )
    except (_foreign_errors()[0], ValueError, TypeError) as error:
        raise InvalidSetting(f"{uri} is no bucket that can be read.", param="model", remedy=_REMEDY) from error


def _client_options(policy: Policy, *, allow_http: bool) -> dict[str, object]:
    return {
        "timeout": WHOLE_BODY,
        "read_timeout": timedelta(seconds=policy.read_timeout_s),
        "connect_timeout": timedelta(seconds=policy.connect_timeout_s),
        "allow_http": allow_http,
    }

"""Every error that a person, a client or a script may see.

    LavatubeError
    ├─ RequestError            the client's fault: change the request
    │  ├─ InvalidJson            400  invalid_json
    │  ├─ InvalidRequest         400  invalid_request
    │  ├─ Unauthorized           401  unauthorized
    │  ├─ Forbidden              403  forbidden
    │  ├─ NotFound               404  not_found
    │  │  └─ ModelNotFound       404  model_not_found
    │  ├─ MethodNotAllowed       405  method_not_allowed
    │  ├─ RequestTimeout         408  request_timeout           (retryable)
    │  ├─ Conflict               409  conflict
    │  ├─ BodyTooLarge           413  body_too_large
    │  ├─ UnsupportedMediaType   415  unsupported_media_type
    │  │  └─ UnsupportedEncoding 415  unsupported_content_encoding
    │  ├─ HeadersTooLarge        431  headers_too_large
    │  ├─ InvalidInput           422  invalid_input
    │  ├─ PromptTooLong          422  prompt_too_long
    │  └─ ImageRejected          422  invalid_image
    │     ├─ TooManyImages         422  too_many_images
    │     ├─ BadImageDimensions    422  image_bad_dimensions
    │     ├─ ImageTooLarge         413  image_too_large
    │     ├─ UnsupportedImage      415  unsupported_image_format
    │     ├─ InvalidImageUrl       422  invalid_image_url
    │     ├─ ForbiddenImageUrl     422  image_url_forbidden
    │     └─ ImageFetchFailed      422  image_fetch_failed      (retryable)
    ├─ ServiceError            ours: try again, or ask the operator
    │  ├─ Overloaded             429  overloaded                (retryable)
    │  ├─ NotReady               503  not_ready                 (retryable)
    │  ├─ Draining               503  draining                  (retryable)
    │  ├─ DeadlineExceeded       504  deadline_exceeded
    │  ├─ EngineCrashed          500  engine_crashed            (retryable)
    │  ├─ EngineNumericalError   500  engine_numerical_error
    │  └─ InternalError          500  internal
    └─ OperatorError           what was asked of this machine can't be done: fix the setting, the weights or the disk
       ├─ InvalidSetting              invalid_setting
       ├─ UnsupportedCheckpoint       unsupported_checkpoint
       ├─ SourceUnavailable           source_unavailable
       ├─ InvalidManifest             invalid_manifest
       ├─ DigestMismatch              digest_mismatch
       ├─ UntrustedSource             untrusted_source
       ├─ CacheUnusable               cache_unusable
       └─ InsufficientMemory          insufficient_memory

Knows no protocol: each file of `serve/` puts these into the shape that its API documents. Messages are safe to send to
a client; details that are not (addresses, paths, exception texts of libraries) go to the log.
"""

from __future__ import annotations

from typing import ClassVar, Final

# Stock clients obey a Retry-After only up to a minute or two; and a longer one is a guess.
MAX_RETRY_AFTER_S: Final = 120


class LavatubeError(Exception):
    """One failure: what happened, which field, and what to do about it."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    is_retryable: ClassVar[bool] = False
    usual_remedy: ClassVar[str] = ""
    """What to do where whoever raises it knows nothing better."""

    def __init__(
        self, message: str, *, param: str | None = None, remedy: str = "", retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.remedy = remedy or self.usual_remedy
        self.retry_after_s = retry_after_s

    @property
    def sentence(self) -> str:
        """The message with its remedy: what a person reads."""
        return f"{self.message} {self.remedy}".strip()

    def __str__(self) -> str:
        return self.sentence


class RequestError(LavatubeError):
    """The client's fault."""

    code = "invalid_request"
    status = 400


class InvalidJson(RequestError):
    code = "invalid_json"


class InvalidRequest(RequestError):
    code = "invalid_request"


class Unauthorized(RequestError):
    code = "unauthorized"
    status = 401


class Forbidden(RequestError):
    code = "forbidden"
    status = 403


class NotFound(RequestError):
    code = "not_found"
    status = 404


class ModelNotFound(NotFound):
    code = "model_not_found"


class MethodNotAllowed(RequestError):
    code = "method_not_allowed"
    status = 405


class RequestTimeout(RequestError):
    code = "request_timeout"
    status = 408
    is_retryable = True


class Conflict(RequestError):
    code = "conflict"
    status = 409


class BodyTooLarge(RequestError):
    code = "body_too_large"
    status = 413


class UnsupportedMediaType(RequestError):
    code = "unsupported_media_type"
    status = 415


class UnsupportedEncoding(UnsupportedMediaType):
    code = "unsupported_content_encoding"


class HeadersTooLarge(RequestError):
    code = "headers_too_large"
    status = 431


class InvalidInput(RequestError):
    code = "invalid_input"
    status = 422


class PromptTooLong(RequestError):
    code = "prompt_too_long"
    status = 422


class ImageRejected(RequestError):
    code = "invalid_image"
    status = 422


class TooManyImages(ImageRejected):
    code = "too_many_images"


class BadImageDimensions(ImageRejected):
    code = "image_bad_dimensions"


class ImageTooLarge(ImageRejected):
    code = "image_too_large"
    status = 413


class UnsupportedImage(ImageRejected):
    code = "unsupported_image_format"
    status = 415


class InvalidImageUrl(ImageRejected):
    code = "invalid_image_url"


class ForbiddenImageUrl(ImageRejected):
    code = "image_url_forbidden"


class ImageFetchFailed(ImageRejected):
    code = "image_fetch_failed"
    is_retryable = True


class ServiceError(LavatubeError):
    """Ours; the same request may succeed later."""


class Overloaded(ServiceError):
    code = "overloaded"
    status = 429
    is_retryable = True


class NotReady(ServiceError):
    code = "not_ready"
    status = 503
    is_retryable = True


class Draining(ServiceError):
    code = "draining"
    status = 503
    is_retryable = True


class DeadlineExceeded(ServiceError):
    code = "deadline_exceeded"
    status = 504


class EngineCrashed(ServiceError):
    code = "engine_crashed"
    is_retryable = True


class EngineNumericalError(ServiceError):
    code = "engine_numerical_error"


class InternalError(ServiceError):
    code = "internal"


class OperatorError(LavatubeError):
    """Start-up can't go on; only the person who runs the server can change that."""


class InvalidSetting(OperatorError):
    code = "invalid_setting"
    usual_remedy = "`lavatube COMMAND --help` says what may be given."


class UnsupportedCheckpoint(OperatorError):
    code = "unsupported_checkpoint"
    usual_remedy = "Fetch the checkpoint again if it is one of those in docs/models.md; others are not served."


class SourceUnavailable(OperatorError):
    code = "source_unavailable"
    usual_remedy = "See to it that the weights can be read there, or get them from another place."


class InvalidManifest(OperatorError):
    code = "invalid_manifest"
    usual_remedy = "Write it again with `lavatube lock`, from files that are known to be right."


class DigestMismatch(OperatorError):
    code = "digest_mismatch"


class UntrustedSource(OperatorError):
    code = "untrusted_source"


class CacheUnusable(OperatorError):
    code = "cache_unusable"


class InsufficientMemory(OperatorError):
    code = "insufficient_memory"


def _by_code(cls: type[LavatubeError]) -> dict[str, type[LavatubeError]]:
    """Of two classes with one code the more special one."""
    found = {cls.code: cls}
    for child in cls.__subclasses__():
        found |= _by_code(child)
    return found


_BY_CODE: Final = _by_code(LavatubeError)


def from_code(code: str, message: str, *, param: str | None = None, remedy: str = "") -> LavatubeError:
    """The error that crossed a process border as its code and texts."""
    return _BY_CODE.get(code, InternalError)(message, param=param, remedy=remedy)

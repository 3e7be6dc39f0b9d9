"""Every error that a person, a client or a script may see.

    LavatubeError
    ├─ RequestError            the client's fault: change the request
    │  ├─ InvalidJson            400  invalid_json
    │  ├─ InvalidRequest         400  invalid_request
    │  ├─ PreviousResponseNotFound  400  previous_response_not_found
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
    │  ├─ InvalidWebhookUrl      422  invalid_webhook_url
    │  ├─ ForbiddenWebhookUrl    422  webhook_url_forbidden
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
    │  │  └─ RateLimited         429  rate_limited              (retryable)
    │  ├─ NotReady               503  not_ready                 (retryable)
    │  ├─ Draining               503  draining                  (retryable)
    │  ├─ StorageUnavailable     503  storage_unavailable       (retryable)
    │  ├─ ServerDied             500  server_died               (retryable)
    │  ├─ DeadlineExceeded       504  deadline_exceeded
    │  ├─ EngineCrashed          500  engine_crashed            (retryable)
    │  ├─ EngineCrashPoison      500  engine_crash_poison
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
       ├─ DatabaseUnusable            database_unusable
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
    """The body is not JSON as RFC 8259 has it: cut off, not UTF-8, NaN, too deep."""

    code = "invalid_json"


class InvalidRequest(RequestError):
    """The request breaks the rules of HTTP or of a header; the message names which."""

    code = "invalid_request"


class PreviousResponseNotFound(RequestError):
    """`previous_response_id` names a response that is not kept, or whose pictures are not."""

    code = "previous_response_not_found"


class Unauthorized(RequestError):
    """The API key is missing, wrong or revoked. Send `Authorization: Bearer KEY`."""

    code = "unauthorized"
    status = 401


class Forbidden(RequestError):
    """This caller may not do that; or the request is addressed to another name, or comes from another site's page."""

    code = "forbidden"
    status = 403


class NotFound(RequestError):
    """There is no such path or prediction, or it is another key's, or it is no longer kept."""

    code = "not_found"
    status = 404


class ModelNotFound(NotFound):
    """The request names another model than the one that is served."""

    code = "model_not_found"


class MethodNotAllowed(RequestError):
    """The path exists and does not take this method; the message lists those it takes."""

    code = "method_not_allowed"
    status = 405


class RequestTimeout(RequestError):
    """The head or the body of the request did not arrive in time."""

    code = "request_timeout"
    status = 408
    is_retryable = True


class Conflict(RequestError):
    """The id was used for another request. Choose a new one."""

    code = "conflict"
    status = 409


class BodyTooLarge(RequestError):
    """The body is larger than `max_body_mib`."""

    code = "body_too_large"
    status = 413


class UnsupportedMediaType(RequestError):
    """The body is not announced as JSON in UTF-8."""

    code = "unsupported_media_type"
    status = 415


class UnsupportedEncoding(UnsupportedMediaType):
    """The body is compressed. Send it as it is."""

    code = "unsupported_content_encoding"


class HeadersTooLarge(RequestError):
    """The head of the request has more than 100 headers or 16 KiB."""

    code = "headers_too_large"
    status = 431


class InvalidInput(RequestError):
    """A field is missing, unknown, of another type or out of its range; `param` names it."""

    code = "invalid_input"
    status = 422


class PromptTooLong(RequestError):
    """The prompt with its pictures does not fit the model's context."""

    code = "prompt_too_long"
    status = 422


class InvalidWebhookUrl(RequestError):
    """The webhook is not a URL that could be called."""

    code = "invalid_webhook_url"
    status = 422


class ForbiddenWebhookUrl(RequestError):
    """The webhook leads to where this server sends none: plain http, a private address, a host that is not listed."""

    code = "webhook_url_forbidden"
    status = 422


class ImageRejected(RequestError):
    """The picture is broken, or not what it says it is, or takes too long to decode."""

    code = "invalid_image"
    status = 422


class TooManyImages(ImageRejected):
    """More pictures than `max_images`, or than the prompt may have."""

    code = "too_many_images"


class BadImageDimensions(ImageRejected):
    """The picture is too narrow, too long or empty to be cut for the model."""

    code = "image_bad_dimensions"


class ImageTooLarge(ImageRejected):
    """The picture has more bytes than `max_image_mib` or more pixels than `max_image_pixels`."""

    code = "image_too_large"
    status = 413


class UnsupportedImage(ImageRejected):
    """The picture is neither PNG, JPEG, WebP nor GIF."""

    code = "unsupported_image_format"
    status = 415


class InvalidImageUrl(ImageRejected):
    """What stands for the picture is no `data:`, `http:` or `https:` URL."""

    code = "invalid_image_url"


class ForbiddenImageUrl(ImageRejected):
    """The picture's URL leads where none are fetched from: a private address, a port, a host not on the list."""

    code = "image_url_forbidden"


class ImageFetchFailed(ImageRejected):
    """The picture's server did not give it: down, slow, an error status, too many redirects."""

    code = "image_fetch_failed"
    is_retryable = True


class ServiceError(LavatubeError):
    """Ours; the same request may succeed later."""


class Overloaded(ServiceError):
    """As much runs and waits as may; `Retry-After` is computed from how fast it goes."""

    code = "overloaded"
    status = 429
    is_retryable = True


class RateLimited(Overloaded):
    """One key's own limit; the server may have room for others."""

    code = "rate_limited"


class NotReady(ServiceError):
    """The weights are being fetched or loaded, the engine is being restarted, or it could not start."""

    code = "not_ready"
    status = 503
    is_retryable = True


class Draining(ServiceError):
    """The server is shutting down. Another one may take the request."""

    code = "draining"
    status = 503
    is_retryable = True


class StorageUnavailable(ServiceError):
    """The database can't be written. What needs no database is still answered."""

    code = "storage_unavailable"
    status = 503
    is_retryable = True


class ServerDied(ServiceError):
    """The server died while it worked on this prediction, and `on_restart` says that it is not to go on."""

    code = "server_died"
    is_retryable = True


class DeadlineExceeded(ServiceError):
    """The prediction did not end within `request_timeout_s`."""

    code = "deadline_exceeded"
    status = 504


class EngineCrashed(ServiceError):
    """The process that holds the model died, or hung and was ended; it is started again."""

    code = "engine_crashed"
    is_retryable = True


class EngineCrashPoison(ServiceError):
    """The engine or the server died whenever it worked on this prediction, which is therefore not tried again."""

    code = "engine_crash_poison"


class EngineNumericalError(ServiceError):
    """The model's output for this request is not a number. Others are not touched by it."""

    code = "engine_numerical_error"


class InternalError(ServiceError):
    """A defect of the server. Its log has the cause, under the request's id."""

    code = "internal"


class OperatorError(LavatubeError):
    """Start-up can't go on; only the person who runs the server can change that."""


class InvalidSetting(OperatorError):
    """A setting, a flag or a variable has a value that can't be used; the message names it."""

    code = "invalid_setting"
    usual_remedy = "`lavatube COMMAND --help` says what may be given."


class UnsupportedCheckpoint(OperatorError):
    """The checkpoint is of a family or a form that is not served."""

    code = "unsupported_checkpoint"
    usual_remedy = "Fetch the checkpoint again if it is one of those in docs/models.md; others are not served."


class SourceUnavailable(OperatorError):
    """The weights' source can't be reached or has no such model."""

    code = "source_unavailable"
    usual_remedy = "See to it that the weights can be read there, or get them from another place."


class InvalidManifest(OperatorError):
    """The manifest is not one, or does not fit the files."""

    code = "invalid_manifest"
    usual_remedy = "Write it again with `lavatube lock`, from files that are known to be right."


class DigestMismatch(OperatorError):
    """Bytes arrived, or lie in the cache, that are not those which the manifest names."""

    code = "digest_mismatch"


class UntrustedSource(OperatorError):
    """Nothing vouches for the weights, and `allow_unverified` is not set."""

    code = "untrusted_source"


class CacheUnusable(OperatorError):
    """The cache can't be written or read: no permission, no space."""

    code = "cache_unusable"


class DatabaseUnusable(OperatorError):
    """The database can't be opened, is broken, or is that of a newer version."""

    code = "database_unusable"


class InsufficientMemory(OperatorError):
    """The model does not fit the device's memory."""

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

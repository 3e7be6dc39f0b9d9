"""A picture's http(s) URL in, its bytes out: each hop, redirects too, is parsed once and dialled through the guard.

No proxies, no cookies, no compression. What may be called is decided in dial.py.
"""

from __future__ import annotations

import logging
import time
from typing import Final
from urllib.parse import urljoin

import h11

from lavatube.errors import ForbiddenImageUrl, ImageFetchFailed, ImageRejected, ImageTooLarge, InvalidImageUrl
from lavatube.prompt.dial import Dial, Dialer, Reason, Refused, Resolve, dial_address, resolve_host
from lavatube.prompt.exchange import Reply, ReplyTooLarge, exchange
from lavatube.prompt.urls import Target, parse_url

logger = logging.getLogger(__name__)

MAX_REDIRECTS: Final = 3
_REDIRECTS: Final = {301, 302, 303, 307, 308}
_CHECK_URL: Final = "Check the URL, try again, or send the picture itself as a data: URL."
_USE_DATA_URL: Final = "Send the picture itself as a data: URL."
_HEADERS: Final = {"Accept": "image/png, image/jpeg, image/webp, image/gif", "Accept-Encoding": "identity"}
_FORBIDDEN: Final = {
    Reason.OFF: "This server fetches no pictures from URLs.",
    Reason.NOT_LISTED: "Pictures are not fetched from that host.",
    Reason.PORT: "Pictures are fetched from ports 80 and 443 only.",
    Reason.NO_DOMAIN: "Pictures are not fetched from hosts without a domain.",
    Reason.NOT_PUBLIC: "The picture's URL is not on the public internet.",
}


class UrlGate:
    """Fetches pictures from where the operator allows it; for `policy` see Dialer. Any thread may call."""

    def __init__(
        self,
        policy: str = "public",
        *,
        max_bytes: int = 20 * 1024 * 1024,
        timeout_s: float = 10.0,
        resolve: Resolve = resolve_host,
        dial: Dial = dial_address,
    ) -> None:
        self._dialer = Dialer(policy, "image_urls", resolve=resolve, dial=dial)
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s

    def fetch(self, url: str) -> bytes:
        """The bytes behind a URL.

        Raises: InvalidImageUrl, ForbiddenImageUrl, ImageFetchFailed, ImageTooLarge, without a param.
        """
        if self._dialer.is_off:
            raise ForbiddenImageUrl(_FORBIDDEN[Reason.OFF], remedy=_USE_DATA_URL)
        deadline = time.monotonic() + self._timeout_s
        target = parse_url(url)
        for _ in range(MAX_REDIRECTS + 1):
            reply = self._request(target, deadline)
            if reply.status not in _REDIRECTS:
                return _body_of(reply)
            target = _next_target(target, reply)
        raise ImageFetchFailed(f"The picture's URL redirects more than {MAX_REDIRECTS} times.", remedy=_CHECK_URL)

    def _request(self, target: Target, deadline: float) -> Reply:
        try:
            addresses = self._dialer.addresses(target, deadline)
        except Refused as refused:
            raise _in_words(refused.reason) from None
        try:
            with self._dialer.connect(target, addresses, deadline) as line:
                return exchange(line, "GET", target, _HEADERS, deadline=deadline, max_reply_bytes=self._max_bytes)
        except ReplyTooLarge:
            raise ImageTooLarge(
                f"The picture's file has more than {self._max_bytes} bytes.", remedy="Send a smaller one."
            ) from None
        except (OSError, h11.RemoteProtocolError) as error:
            logger.info("fetching a picture from %s at %s failed: %r", target.host, addresses[0], error)
            raise ImageFetchFailed(
                "The picture's server could not be reached, or broke off.", remedy=_CHECK_URL
            ) from None


def _in_words(reason: Reason) -> ImageRejected:
    if reason is Reason.NOT_FOUND:
        return ImageFetchFailed("The host of the picture's URL could not be found.", remedy=_CHECK_URL)
    return ForbiddenImageUrl(_FORBIDDEN[reason], remedy=_USE_DATA_URL)


def _next_target(target: Target, reply: Reply) -> Target:
    location = reply.fields.get("location")
    if location is None:
        raise ImageFetchFailed("The picture's URL redirects to nowhere.", remedy=_CHECK_URL)
    try:
        following = parse_url(urljoin(target.url, location))
    except (InvalidImageUrl, ValueError):
        raise ForbiddenImageUrl(
            "The picture's URL redirects to what is not a plain http or https URL.", remedy=_CHECK_URL
        ) from None
    if (target.scheme, following.scheme) == ("https", "http"):
        raise ImageFetchFailed("The picture's URL redirects from https to http.", remedy=_CHECK_URL)
    return following


def _body_of(reply: Reply) -> bytes:
    if reply.status != 200:
        raise ImageFetchFailed(f"The picture's server answered with status {reply.status}.", remedy=_CHECK_URL)
    return reply.body

"""One signed POST to a webhook's URL: no redirects followed, nothing of the answer kept but its status. Blocking.

What may be called is decided as for pictures (prompt/dial.py), but that only hosts which the operator lists are called
without TLS.
"""

from __future__ import annotations

import email.utils
import logging
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import h11
from standardwebhooks import Webhook as Signer

from lavatube.errors import ForbiddenWebhookUrl, InvalidImageUrl, InvalidWebhookUrl
from lavatube.predictions.webhook import Outcome
from lavatube.prompt.dial import Dial, Dialer, Reason, Refused, Resolve, dial_address, resolve_host
from lavatube.prompt.exchange import Reply, exchange
from lavatube.prompt.urls import Target, parse_url

logger = logging.getLogger(__name__)

TIMEOUT_S: Final = 20.0
_REMEDY: Final = "Leave the webhook out, or ask the operator for that host."
_FORBIDDEN: Final = {
    Reason.OFF: "This server sends no webhooks.",
    Reason.NOT_LISTED: "Webhooks are not sent to that host.",
    Reason.PORT: "Webhooks are sent to ports 80 and 443 only.",
    Reason.NO_DOMAIN: "Webhooks are not sent to hosts without a domain.",
    Reason.NOT_PUBLIC: "The webhook's URL is not on the public internet.",
}


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent. `id` is the same at each attempt; `secret` signs it."""

    id: str
    url: str
    body: bytes
    secret: str = field(repr=False)


class Postman:
    """Any thread may call. `policy` is the setting webhook_urls; `token` is sent along, if there is one."""

    def __init__(
        self, policy: str = "public", token: str = "", *, resolve: Resolve = resolve_host, dial: Dial = dial_address
    ) -> None:
        self._dialer = Dialer(policy, "webhook_urls", resolve=resolve, dial=dial)
        self._token = token

    def check(self, url: str) -> None:
        """What can be told of a URL before it is called. Raises: InvalidWebhookUrl, ForbiddenWebhookUrl."""
        try:
            target = parse_url(url)
        except InvalidImageUrl:
            raise InvalidWebhookUrl(
                "The webhook is no plain http or https URL.",
                param="webhook",
                remedy="User names, spaces, backslashes and characters outside ASCII are not taken.",
            ) from None
        try:
            self._dialer.check(target)
        except Refused as refused:
            raise ForbiddenWebhookUrl(_FORBIDDEN[refused.reason], param="webhook", remedy=_REMEDY) from None
        if self._is_bare(target):
            raise ForbiddenWebhookUrl("Webhooks are sent over https only.", param="webhook", remedy="Give such a URL.")

    def post(self, message: Message, timeout_s: float = TIMEOUT_S) -> Outcome:
        """Send it once; every way to fail is an outcome. The host is checked anew."""
        deadline = time.monotonic() + timeout_s
        target = parse_url(message.url)
        if self._is_bare(target):
            logger.warning("webhook %s: %s is not called: it is no longer listed", message.id, target.host)
            return Outcome(None)
        try:
            addresses = self._dialer.addresses(target, deadline)
            with self._dialer.connect(target, addresses, deadline) as line:
                reply = exchange(line, "POST", target, self._headers(message), deadline=deadline, body=message.body)
        except Refused as refused:
            logger.warning("webhook %s: %s is not called: %s", message.id, target.host, refused.reason.name)
            return Outcome(None)
        except (OSError, h11.RemoteProtocolError) as error:
            logger.info("webhook %s: %s could not be reached: %r", message.id, target.host, error)
            return Outcome(None)
        return Outcome(reply.status, _retry_after_s(reply))

    def _is_bare(self, target: Target) -> bool:
        """Without TLS, and not to a host that the operator trusts."""
        return target.scheme == "http" and not self._dialer.is_listed(target)

    def _headers(self, message: Message) -> dict[str, str]:
        now = datetime.now(UTC)
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(message.body)),
            "webhook-id": message.id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": Signer(message.secret).sign(message.id, now, message.body.decode()),
        }
        return headers | ({"Authorization": f"Bearer {self._token}"} if self._token else {})


def _retry_after_s(reply: Reply) -> float:
    """Seconds, or a date; 0 for neither."""
    text = reply.fields.get("retry-after", "").strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        return max(email.utils.parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except (ValueError, OverflowError):
        return 0.0

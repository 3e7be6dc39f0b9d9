"""The signed POST, against a real receiver, as the receivers' own libraries check it; and what is never called."""

from __future__ import annotations

import base64
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import standardwebhooks
from replicate.webhook import Webhooks as Stock
from replicate.webhook import WebhookSigningSecret

from lavatube.errors import ForbiddenWebhookUrl, InvalidWebhookUrl
from lavatube.predictions.postman import Message, Postman
from tests.hooks import Receiver

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
BODY = '{"status":"succeeded","output":["é "]}'.encode()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def message(url: str) -> Message:
    return Message("msg_1", url, BODY, SECRET)


def test_receivers_find_the_signature_good(receiver: Receiver) -> None:
    postman = Postman(receiver.host)
    assert postman.post(message(receiver.url())).status == 200
    (post,) = receiver.posts
    assert post.raw == BODY
    assert post.headers["content-type"] == "application/json"
    standardwebhooks.Webhook(SECRET).verify(post.raw, post.headers)
    Stock.validate(headers=post.headers, body=BODY.decode(), secret=WebhookSigningSecret(key=SECRET), tolerance=60)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(SECRET).verify(post.raw + b" ", post.headers)


def test_a_token_is_sent_only_where_there_is_one(receiver: Receiver) -> None:
    Postman(receiver.host).post(message(receiver.url()))
    Postman(receiver.host, "a-token").post(message(receiver.url()))
    assert [post.headers.get("authorization") for post in receiver.posts] == [None, "Bearer a-token"]


def test_redirects_are_not_followed(receiver: Receiver) -> None:
    receiver.answer = lambda post: (307, {"location": receiver.url("/other")})
    assert Postman(receiver.host).post(message(receiver.url())).status == 307
    assert [post.path for post in receiver.posts] == ["/hook"]


def test_retry_after_is_read_in_both_forms(receiver: Receiver) -> None:
    postman = Postman(receiver.host)
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    for text, wanted_s in (("17", 17), (later, 90), ("soon", 0), ("-5", 0), ("9" * 30, 0)):
        receiver.answer = lambda post, text=text: (503, {"retry-after": text})
        assert postman.post(message(receiver.url())).retry_after_s == pytest.approx(wanted_s, abs=5)


def test_silence_ends_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        assert Postman(host).post(message(f"http://{host}/"), timeout_s=0.3).status is None
        assert time.monotonic() - began < 10


def test_nobody_there_is_an_outcome() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        host = f"127.0.0.1:{free.getsockname()[1]}"
    assert Postman(host).post(message(f"http://{host}/")).status is None


@pytest.mark.parametrize(
    "url", ["", "notaurl", "ftp://a.test/", "https://u:p@a.test/", "https://a b/", "https://127.1/"]
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidWebhookUrl) as caught:
        Postman().check(url)
    assert caught.value.param == "webhook"


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.com/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://169.254.169.254/latest/meta-data/",
        "https://10.0.0.1/",
        "https://localhost/",
        "https://hooks.example.com:8443/",
    ],
)
def test_where_no_webhook_goes(url: str) -> None:
    with pytest.raises(ForbiddenWebhookUrl) as caught:
        Postman().check(url)
    assert "127.0.0.1" not in caught.value.sentence


def test_a_list_is_all_there_is() -> None:
    postman = Postman("hooks.internal:8080")
    postman.check("http://hooks.internal:8080/x")
    for url in ("https://hooks.example.com/", "http://hooks.internal/", "http://hooks.internal:8081/"):
        with pytest.raises(ForbiddenWebhookUrl):
            postman.check(url)
    with pytest.raises(ForbiddenWebhookUrl, match="sends no webhooks"):
        Postman("off").check("https://hooks.example.com/")


def test_a_name_that_points_inside_is_not_called() -> None:
    def dial(address: str, port: int, timeout_s: float) -> socket.socket:
        raise AssertionError(f"dialled {address}")

    postman = Postman(resolve=lambda host: ["93.184.215.14", "127.0.0.1"], dial=dial)
    postman.check("https://hooks.example.com/")
    assert postman.post(message("https://hooks.example.com/")).status is None


def test_who_is_no_longer_listed_is_not_called_without_tls(receiver: Receiver) -> None:
    assert Postman().post(message(receiver.url())).status is None
    assert not receiver.posts

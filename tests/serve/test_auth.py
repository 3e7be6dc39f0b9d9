"""Keys: made and shown once, compared without telling, owned predictions, and what a server does without any."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine, create_engine, text

from lavatube.errors import InvalidSetting
from lavatube.predictions.keys import KeyStore
from lavatube.predictions.owners import OwnerLimits
from lavatube.predictions.tables import metadata
from lavatube.serve.auth import ANYBODY, THE_OPERATOR, Keyring
from tests.predictions.fakes import PNG
from tests.serve.live import LiveServer
from tests.serve.responses import post

USER = {"role": "user", "content": "more"}
GOOD = {"input": {"image": PNG, "prompt": "hello", "max_tokens": 5}}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path / 'keys.db'}")
    metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def store(engine: Engine) -> KeyStore:
    return KeyStore(engine)


def bearer(text: str) -> list[bytes]:
    return [f"Bearer {text}".encode()]


def headers(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


def test_a_key_is_kept_as_a_digest_only(store: KeyStore, engine: Engine) -> None:
    key, secret = store.add("phone", OwnerLimits(max_streams=2, weight=3))
    assert store.all() == [key]
    assert key.is_valid
    with engine.connect() as connection:
        rows = str(connection.execute(text("select * from api_keys")).all())
    assert secret not in rows
    assert secret.rpartition("_")[2] not in rows
    assert secret not in repr(key)
    assert secret != store.add("laptop", OwnerLimits())[1]


def test_names_are_checked_and_used_once(store: KeyStore) -> None:
    store.add("phone", OwnerLimits())
    with pytest.raises(InvalidSetting, match="already"):
        store.add("phone", OwnerLimits())
    for name in ("", "a b", "-x", "é", "x" * 65):
        with pytest.raises(InvalidSetting, match="no name"):
            store.add(name, OwnerLimits())
    store.revoke("phone")
    with pytest.raises(InvalidSetting, match="no valid key"):
        store.revoke("phone")
    with pytest.raises(InvalidSetting, match="already"):
        store.add("phone", OwnerLimits())


def test_the_keyring_knows_who_calls(store: KeyStore) -> None:
    ring = Keyring("operators-own", store.all, OwnerLimits(max_streams=7, tokens_per_minute=9))
    _, phone = store.add("phone", OwnerLimits(max_streams=2))
    _, admin = store.add("admin", OwnerLimits(), is_operator=True)
    assert ring.caller(bearer(phone)) is None, "not read yet"
    ring.refresh()
    caller = ring.caller(bearer(phone))
    assert caller is not None
    assert (caller.name, caller.is_operator) == ("phone", False)
    assert caller.limits == OwnerLimits(max_streams=2, tokens_per_minute=9)
    assert ring.limits_of(caller.id) == caller.limits
    assert ring.caller(bearer("operators-own")) is THE_OPERATOR
    admin_caller = ring.caller(bearer(admin))
    assert admin_caller is not None
    assert admin_caller.is_operator
    assert admin_caller.id != THE_OPERATOR.id
    for wrong in (phone[:-1], phone + "x", phone.upper(), "", "é", phone[:14] + admin[14:]):
        assert ring.caller(bearer(wrong)) is None
    assert ring.caller([phone.encode()]) is None
    assert ring.caller(bearer(phone) * 2) is None
    assert ring.caller([]) is None


def test_a_revoked_key_opens_nothing_and_the_door_stays_shut(store: KeyStore) -> None:
    ring = Keyring("", store.all)
    ring.refresh()
    assert not ring.is_asking
    assert ring.caller([]) is ANYBODY
    _, phone = store.add("phone", OwnerLimits(max_streams=2))
    ring.refresh()
    owner = ring.caller(bearer(phone))
    store.revoke("phone")
    ring.refresh()
    assert ring.caller(bearer(phone)) is None
    assert ring.is_asking
    assert ring.caller([]) is None
    assert owner is not None
    assert ring.limits_of(owner.id).max_streams == 2


@pytest.fixture
def two_keys(tmp_path: Path, store: KeyStore) -> Iterator[tuple[LiveServer, str, str]]:
    first, second = (
        store.add(name, OwnerLimits(max_streams=2, requests_per_minute=1000))[1] for name in ("one", "two")
    )
    ring = Keyring("", store.all)
    ring.refresh()
    with LiveServer(tmp_path / "server", keyring=ring) as server:
        yield server, first, second


def test_anothers_prediction_is_not_there(two_keys: tuple[LiveServer, str, str]) -> None:
    server, mine, yours = two_keys
    created = httpx.post(f"{server.url}/predictions", json=GOOD, headers=headers(mine)).json()
    path = f"{server.url}/predictions/{created['id']}"
    assert httpx.get(path, headers=headers(mine)).json()["output"] == list("hello")
    nobodys = f"{server.url}/predictions/nothing"
    for method, end in (("GET", ""), ("GET", "/stream"), ("POST", "/cancel")):
        answer = httpx.request(method, path + end, headers=headers(yours))
        assert answer.status_code == 404
        assert _without_id(answer) == _without_id(httpx.request(method, nobodys + end, headers=headers(yours)))
    server.engine.token_s = 0.01
    running = httpx.put(
        f"{server.url}/predictions/mine",
        json={"input": GOOD["input"] | {"max_tokens": 1000}},
        headers={**headers(mine), "prefer": "respond-async"},
    )
    assert running.status_code == 202
    assert httpx.post(f"{server.url}/predictions/mine/cancel", headers=headers(yours)).status_code == 404
    assert httpx.get(f"{server.url}/predictions/mine", headers=headers(mine)).json()["status"] != "canceled"
    assert httpx.post(f"{server.url}/predictions/mine/cancel", headers=headers(mine)).status_code == 200


def test_anothers_response_is_not_there(two_keys: tuple[LiveServer, str, str]) -> None:
    server, mine, yours = two_keys
    with server.client(headers=headers(mine)) as my_own, server.client(headers=headers(yours)) as other:
        made = post(my_own, background=True).json()
        path = f"/v1/responses/{made['id']}"
        for answer in (
            other.get(path),
            other.get(path, params={"stream": "true"}),
            other.get(f"{path}/input_items"),
            other.post(f"{path}/cancel"),
            other.delete(path),
            post(other, input=[{"type": "item_reference", "id": f"msg_{made['id'][5:]}"}, USER]),
        ):
            assert answer.status_code == 404
        refused = post(other, previous_response_id=made["id"]).json()["error"]
        assert refused["code"] == "previous_response_not_found"
        assert my_own.get(path).status_code == 200


def test_two_keys_may_use_the_same_id_and_see_nothing_of_each_other(two_keys: tuple[LiveServer, str, str]) -> None:
    server, mine, yours = two_keys
    url = f"{server.url}/predictions/x"
    asked = {mine: GOOD, yours: {"input": GOOD["input"] | {"prompt": "world"}}}
    for key, body in asked.items():
        assert httpx.get(url, headers=headers(key)).status_code == 404
        for _ in range(2):
            answer = httpx.put(url, json=body, headers=headers(key))
            assert (answer.status_code, answer.json()["id"]) == (200, "x")
            assert answer.json()["output"] == list(str(body["input"]["prompt"]))
        assert httpx.get(url, headers=headers(key)).json() == answer.json()
        assert httpx.get(f"{url}/stream", headers=headers(key)).text.count("event: output") >= 1
        other = httpx.put(url, json={"input": {**GOOD["input"], "prompt": "third"}}, headers=headers(key))
        assert (other.status_code, other.json()["error"]["code"]) == (409, "conflict")
    assert [httpx.get(url, headers=headers(key)).json()["output"] for key in asked] == [list("hello"), list("world")]


def test_a_key_has_its_limits_and_others_their_room(two_keys: tuple[LiveServer, str, str]) -> None:
    server, mine, yours = two_keys
    server.engine.token_s = 0.01
    long = {"input": GOOD["input"] | {"max_tokens": 2000}}
    asynchronous = {"prefer": "respond-async"}
    for _ in range(2):
        assert httpx.post(f"{server.url}/predictions", json=long, headers=headers(mine) | asynchronous).is_success
    refused = httpx.post(f"{server.url}/predictions", json=long, headers=headers(mine) | asynchronous)
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited"), refused.text
    assert refused.headers["retry-after"] == "1"
    chat = {"model": "echo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    refused = httpx.post(f"{server.url}/v1/chat/completions", json=chat, headers=headers(mine))
    assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
    assert httpx.post(f"{server.url}/v1/chat/completions", json=chat, headers=headers(yours)).status_code == 200


def test_only_an_operator_stops_the_server(tmp_path: Path, store: KeyStore) -> None:
    _, user = store.add("user", OwnerLimits())
    _, admin = store.add("admin", OwnerLimits(), is_operator=True)
    ring = Keyring("", store.all)
    ring.refresh()
    with LiveServer(tmp_path / "server", keyring=ring) as server:
        refused = httpx.post(f"{server.url}/shutdown", headers=headers(user))
        assert (refused.status_code, server.num_shutdowns) == (403, 0)
        assert httpx.post(f"{server.url}/shutdown", headers=headers(admin)).status_code == 200
        assert server.num_shutdowns == 1


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 403),
        ("evil.example:5000", 403),
        ("127.0.0.1.evil.example", 403),
        ("127.0.0.1:5000", 404),
        ("[::1]:5000", 404),
        ("localhost:5000", 404),
        ("llava.localhost", 404),
        ("llava", 404),
        ("LLAVA.example", 404),
    ],
)
def test_without_keys_no_page_gets_here_by_a_name_of_its_own(tmp_path: Path, host: str, status: int) -> None:
    with LiveServer(tmp_path, allowed_hosts="llava.example") as server:
        answer = httpx.get(f"{server.url}/predictions/x", headers={"host": host})
        assert answer.status_code == status
        assert httpx.get(f"{server.url}/readyz", headers={"host": host}).status_code == 200


def test_with_a_key_any_name_will_do(tmp_path: Path) -> None:
    with LiveServer(tmp_path, api_key="k") as server:
        answer = httpx.get(f"{server.url}/v1/models", headers=headers("k") | {"host": "llava.example"})
        assert answer.status_code == 200


def test_the_time_of_a_refusal_says_nothing_about_the_key(store: KeyStore) -> None:
    """Welch's t between keys that share their first 40 characters with a real one and keys that share none."""
    _, real = store.add("phone", OwnerLimits())
    ring = Keyring("the-operators", store.all)
    ring.refresh()
    near, far = bearer(real[:40] + "x" * (len(real) - 40)), bearer("lava_aaaaaaaa_" + "x" * 43)
    times: dict[bool, list[float]] = {True: [], False: []}
    draw = random.Random(1)
    for _ in range(6000):
        is_near = draw.random() < 0.5
        begun = time.perf_counter_ns()
        ring.caller(near if is_near else far)
        times[is_near].append(time.perf_counter_ns() - begun)
    kept = [sorted(values)[: int(len(values) * 0.8)] for values in times.values()]  # without the pauses of the machine
    means, variances = [statistics.mean(k) for k in kept], [statistics.variance(k) / len(k) for k in kept]
    difference_ns = abs(means[0] - means[1])
    assert difference_ns < 500 or difference_ns / sum(variances) ** 0.5 < 4.5


def _without_id(answer: httpx.Response) -> object:
    body = answer.json()
    body["error"].pop("request_id")
    return body

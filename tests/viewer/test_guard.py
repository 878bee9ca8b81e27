"""The token is exchanged once, and few wrong ones are listened to."""

import asyncio
import json

from starlette.requests import Request
from starlette.responses import Response

from ctmr.viewer.guard import BAD_TOKENS, Session
from ctmr.viewer.orders import order_of

READING = {"geometry": None, "irregular": False, "anyway": False, "series": [], "ct_values": None}
ORDER = {"to": "ct", "model": "a" * 64, "quality": "fast", "slices": False, "reading": READING}
MODELS = {"a" * 64: "head"}


def exchange(session: Session, body: bytes) -> Response:
    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body, "more_body": False}

    request = Request({"type": "http", "method": "POST", "headers": []}, receive)
    return asyncio.run(session.exchange(request))


def token(session: Session) -> bytes:
    return json.dumps({"token": session.token}).encode()


def test_token_has_256_bits_and_is_exchanged_once() -> None:
    session = Session(8000)
    assert len(session.token) >= 43
    answer = exchange(session, token(session))
    assert answer.status_code == 204
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("ctmr-view-8000=")
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert session.token not in cookie
    assert session.knows({"ctmr-view-8000": cookie.split(";")[0].split("=", 1)[1]})
    assert exchange(session, token(session)).status_code == 401


def test_after_ten_wrong_tokens_a_minute_passes_before_the_right_one_is_taken() -> None:
    now = [0.0]
    session = Session(8000, clock=lambda: now[0])
    for n in range(BAD_TOKENS):
        now[0] = n * 0.1
        assert exchange(session, b'{"token": "x"}').status_code == 401
    assert exchange(session, token(session)).status_code == 429
    now[0] = 60.5
    assert exchange(session, token(session)).status_code == 204


def test_order_is_taken_with_known_values_only() -> None:
    assert order_of(ORDER, MODELS) == ORDER | {"model": "head"}
    wrong: list[object] = [
        None,
        [],
        {},
        ORDER | {"extra": 1},
        ORDER | {"to": "pet"},
        ORDER | {"model": "/etc/passwd"},
        ORDER | {"model": 3},
        ORDER | {"quality": "none"},
        ORDER | {"slices": 1},
        ORDER | {"reading": []},
        ORDER | {"reading": READING | {"geometry": "XYZ"}},
        ORDER | {"reading": READING | {"anyway": "yes"}},
        ORDER | {"reading": READING | {"series": ["../x"]}},
        ORDER | {"reading": READING | {"series": ["1", "2"]}},
        ORDER | {"reading": READING | {"ct_values": "1:2; rm"}},
    ]
    assert [order_of(content, MODELS) for content in wrong] == [None] * len(wrong)

"""What every request must be before anything looks at it, and what every answer says; nothing else decides who may do what."""

import asyncio
import hmac
import json
import re
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ctmr.viewer.limits import IDLE_S

POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; worker-src 'self' blob:; object-src 'none';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
MAX_HEADER_BYTES = 2**14
MAX_JSON_BYTES = 2**14
BAD_TOKENS = 10  # in a minute, before nobody is listened to for the rest of it
_PATH = re.compile(rb"/(?:[a-z0-9_-]+(?:\.[a-z0-9]+)*(?:/[a-z0-9_-]+(?:\.[a-z0-9]+)*)*)?")
_CHANGES = ("POST", "PUT", "DELETE")


def refusal(status: int, what: str, fix: str = "reload the page", code: str = "E200") -> Response:
    """An answer that says no, in the form of every error; it repeats nothing of the request."""
    content = {"error": {"code": code, "what": what, "fix": fix, "file": None}}
    return JSONResponse(content, status, headers={"Connection": "close"} if status >= 400 else None)


async def short_json(request: Request) -> Any:
    """The body of a request, if it is JSON; else None.

    Raises:
        HTTPException: If it is long (413).
        TimeoutError: If it does not come.
    """
    body = b""
    async with asyncio.timeout(IDLE_S):
        async for part in request.stream():
            body += part
            if len(body) > MAX_JSON_BYTES:
                raise HTTPException(413)
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


class Session:
    """The one token of a server, and the cookie that it is exchanged for, once.

    Attributes:
        token: 256 random bits, printed once in the fragment of the URL.
        cookie: Name of the cookie: browsers do not tell ports apart.
    """

    def __init__(self, port: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.token = secrets.token_urlsafe(32)
        self.cookie = f"ctmr-view-{port}"
        self._key, self._used = secrets.token_urlsafe(32), False
        self._clock, self._bad = clock, deque[float](maxlen=BAD_TOKENS)

    def knows(self, cookies: Mapping[str, str]) -> bool:
        """Whether a browser has exchanged the token."""
        return hmac.compare_digest(cookies.get(self.cookie, "").encode(), self._key.encode())

    async def exchange(self, request: Request) -> Response:
        """Answer with the cookie to whoever has the token."""
        now = self._clock()
        if len(self._bad) == BAD_TOKENS and now - self._bad[0] < 60:
            return refusal(429, "too many wrong tokens", "wait a minute")
        content = await short_json(request)
        given = content.get("token") if isinstance(content, dict) else None
        right = isinstance(given, str) and hmac.compare_digest(given.encode(), self.token.encode())
        if not right or self._used:
            self._bad.append(now)
            return refusal(401, "the link is wrong or was used", "start ctmr view again")
        self._used = True
        answer = Response(status_code=204)
        answer.set_cookie(self.cookie, self._key, httponly=True, samesite="strict", path="/")
        return answer


class Guard:
    """Lets a request through that comes from the page itself, and puts the policy on every answer.

    Args:
        app: What is guarded.
        session: Who may.
        port: That the server listens on.
        public: Paths of the page, which need no cookie.
    """

    def __init__(self, app: ASGIApp, session: Session, port: int, public: frozenset[str]) -> None:
        self._app, self._session, self._public = app, session, public
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refused = self._refuse(scope)
        await (refused or self._app)(scope, receive, guarded)

    def _refuse(self, scope: Scope) -> Response | None:
        """What is wrong with a request, by its first line and its headers alone."""
        headers = Headers(scope=scope)
        if sum(len(name) + len(value) + 4 for name, value in headers.raw) > MAX_HEADER_BYTES:
            return refusal(431, f"expected headers of at most {MAX_HEADER_BYTES} bytes: found more")
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            return refusal(
                421, "this server answers to 127.0.0.1 and localhost only", "open the URL"
            )
        if not _PATH.fullmatch(scope["raw_path"]) or scope["query_string"]:
            return refusal(404, "there is nothing here")
        changes = scope["method"] in _CHANGES
        if not changes and scope["method"] not in ("GET", "HEAD"):
            return refusal(405, "this method is not known")
        if changes:
            own = headers.getlist("origin") == [f"http://{hosts[0]}"]
            own = own and headers.get("sec-fetch-site", "same-origin") == "same-origin"
            if not own or headers.getlist("x-ctmr") != ["1"]:
                return refusal(403, "changes are made by the page itself only")
        path = scope["path"]
        if path in self._public or (path == "/session" and scope["method"] == "POST"):
            return None
        known = self._session.knows(Request(scope).cookies)
        return None if known else refusal(401, "no token", "open the URL that ctmr view printed")

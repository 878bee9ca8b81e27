"""Hostile requests, sent as bytes: what each gets, within a second, and that the server stays as it was."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.view import Client, view

CANARY = b"canary-5b1f"
JOB = "0" * 32
TOKEN_LIMIT = 10


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("view")
    (folder / "canary.txt").write_bytes(CANARY)
    with view(temporary=folder) as client:
        yield client


def request(
    client: Client,
    target: str = "/jobs",
    method: str = "GET",
    body: bytes = b"",
    **headers: str | None,
) -> bytes:
    """The bytes of a request that would be let through, but for what is changed; a header that is None is left out."""
    lines: dict[str, str | None] = {
        "Host": f"127.0.0.1:{client.port}",
        "Cookie": client.cookie,
        "Origin": client.origin if method != "GET" else None,
        "X-CTMR": "1" if method != "GET" else None,
        "Content-Length": str(len(body)) if method != "GET" else None,
    }
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    shown = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value is not None)
    return f"{method} {target} HTTP/1.1\r\n{shown}\r\n".encode("latin-1") + body


PATHS = [
    "/../canary.txt",
    "/..%2fcanary.txt",
    "/%2e%2e/canary.txt",
    "/%2e%2e%2fcanary.txt",
    "/..%5ccanary.txt",
    "/..\\canary.txt",
    "//etc/passwd",
    "/etc/passwd",
    "/app.js/../../canary.txt",
    "/app.js%00.png",
    "/%00",
    "/\\\\?\\C:\\canary.txt",
    "/file:///etc/passwd",
    "/static/../../../../etc/passwd",
    "/.%252e/canary.txt",
    "/%c0%ae%c0%ae/canary.txt",
    "/jobs/../canary.txt",
    f"/jobs/{JOB}/results/../../../canary.txt",
    f"/jobs/{JOB}/results/..%2f..%2fcanary.txt",
    f"/jobs/{JOB}/slices/../source-axial-0001.png",
    f"/jobs/{JOB}/slices/source-axial-99999999.png",
    f"/jobs/{JOB}",
    "/jobs/" + "0" * 31,
    "/jobs/" + "0" * 33,
    "/jobs/" + "G" * 32,
    "/jobs?path=/etc/passwd",
    "/jobs/",
    "/jobs//",
    "/models/../canary.txt",
    f"/runs/{JOB}/report",
    f"/runs/{JOB}/grids/1.png",
    f"/runs/{JOB}/grids/-1.png",
    f"/runs/{JOB}/events",
    "/niivue.js.map",
    "/.git/config",
    "/server.lock",
    "/~root",
    "/;/canary.txt",
    "/proxy?url=http://example.org/",
    "/openapi.json",
    "/docs",
    "/upload_model",
]


@pytest.mark.parametrize("path", PATHS)
def test_path_that_names_nothing_is_not_found_and_not_repeated(served: Client, path: str) -> None:
    answer = timed(served, request(served, path))
    assert status(answer) in (400, 404), answer
    assert CANARY not in answer
    body = answer.partition(b"\r\n\r\n")[2]
    assert path.strip("/").encode() not in body or len(path) < 3


def timed(client: Client, content: bytes) -> bytes:
    started = time.monotonic()
    answer = client.raw(content)
    assert time.monotonic() - started < 5  # a second on a quiet machine: benchmarks/view.py
    return answer


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


@pytest.mark.parametrize("name", ["scan", "server.lock", "0001.dcm", "0" * 31, "0" * 33, "g" * 32])
def test_file_has_128_bits_for_its_name(served: Client, name: str) -> None:
    job = served.ask("POST", "/jobs", b"").json["id"]
    png = b"\x89PNG\r\n\x1a\n" + bytes(40)
    assert served.ask("PUT", f"/jobs/{job}/files/{name}", png).status == 404
    assert served.ask("PUT", f"/jobs/{job}/files/{JOB}", png).status == 200
    served.ask("DELETE", f"/jobs/{job}")


HEADERS: list[tuple[str, int, dict[str, str | None]]] = [
    ("another host", 421, {"Host": "evil.example"}),
    ("another port", 421, {"Host": "127.0.0.1:1"}),
    ("a host without a port", 421, {"Host": "127.0.0.1"}),
    ("a host with a dot", 421, {"Host": "localhost.:80"}),
    ("a host that is an address of all", 421, {"Host": "0.0.0.0:80"}),
    ("a host in another form", 421, {"Host": "2130706433:80"}),
    ("a host with a user", 421, {"Host": "127.0.0.1@evil.example"}),
    ("no host", 400, {"Host": None}),
    ("no cookie", 401, {"Cookie": None}),
    ("another cookie", 401, {"Cookie": "ctmr-view=1"}),
    ("a wrong key", 401, {"Cookie": "ctmr-view-{port}=AAAA"}),
    ("a cookie with letters beyond ASCII", 401, {"Cookie": "ctmr-view-{port}=\xe9"}),
]


@pytest.mark.parametrize(
    ("name", "expected", "headers"), HEADERS, ids=[each[0] for each in HEADERS]
)
def test_reading_needs_host_and_cookie(
    served: Client, name: str, expected: int, headers: dict[str, str | None]
) -> None:
    filled = {
        key: value and value.replace("{port}", str(served.port)) for key, value in headers.items()
    }
    assert status(timed(served, request(served, **filled))) == expected


CHANGES: list[tuple[str, int, dict[str, str | None]]] = [
    ("no origin", 403, {"Origin": None}),
    ("the origin null", 403, {"Origin": "null"}),
    ("another origin", 403, {"Origin": "http://evil.example"}),
    ("the origin of another port", 403, {"Origin": "http://127.0.0.1:1"}),
    ("an origin with TLS", 403, {"Origin": "https://127.0.0.1:{port}"}),
    ("the other of two names", 403, {"Origin": "http://localhost:{port}"}),
    ("no X-CTMR", 403, {"X-CTMR": None}),
    ("another X-CTMR", 403, {"X-CTMR": "0"}),
    ("another site", 403, {"Sec-Fetch-Site": "cross-site"}),
    ("no cookie", 401, {"Cookie": None}),
]


@pytest.mark.parametrize(
    ("name", "expected", "headers"), CHANGES, ids=[each[0] for each in CHANGES]
)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_change_needs_origin_header_and_cookie(
    served: Client, name: str, expected: int, headers: dict[str, str | None], method: str
) -> None:
    filled = {
        key: value and value.replace("{port}", str(served.port)) for key, value in headers.items()
    }
    answer = timed(served, request(served, "/jobs", method, **filled))
    assert status(answer) == expected
    assert b"access-control" not in answer.lower()


def odd(client: Client) -> dict[str, tuple[tuple[int, ...], bytes]]:
    """Requests that are none, or are too much; a status of 0 is a closed connection."""
    host = f"Host: 127.0.0.1:{client.port}\r\n".encode()
    put = request(client, f"/jobs/{JOB}/files/{JOB}", "PUT", Content_Length=str(5 * 2**30))
    bad_length = request(client, "/jobs", "POST", Content_Length="-1")
    both = request(client, "/session", "POST", b"0\r\n\r\n", Transfer_Encoding="chunked")
    return {
        "two hosts": ((400, 421), b"GET / HTTP/1.1\r\n" + host + host + b"\r\n"),
        "absolute form": ((404,), request(client, "http://evil.example/")),
        "absolute form of its own": ((404,), request(client, f"{client.origin}/jobs")),
        "user in the target": ((404, 400), request(client, "@evil.example/")),
        "asterisk": ((404, 405), request(client, "*", "OPTIONS")),
        "connect": ((404, 405), request(client, "evil.example:443", "CONNECT")),
        "trace": ((405,), request(client, "/", "TRACE")),
        "options": ((405,), request(client, "/jobs", "OPTIONS")),
        "patch": ((405,), request(client, "/jobs", "PATCH")),
        "a method of nobody": ((405,), request(client, "/jobs", "BREW")),
        "a long path": ((400, 404, 431), request(client, "/" + "a" * 9000)),
        "a huge header": ((400, 431), request(client, X_Long="a" * 70_000)),
        "many headers": ((400, 431), request(client, **{f"X_{n}": "a" * 80 for n in range(400)})),
        "a header in two lines": ((200, 400), request(client, X_A="1\r\n 2")),
        "a bare newline ends the header": ((200, 400), request(client, X_A="1\n\nGET /")),
        "HTTP 0.9": ((400,), b"GET /\r\n\r\n"),
        "HTTP 2 as text": ((400, 421), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        "TLS": ((400,), b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 40 + b"\r\n\r\n"),
        "zeros": ((400,), b"\0" * 64 + b"\r\n\r\n"),
        "websocket": (
            (404, 200, 401),
            request(client, "/jobs", Connection="Upgrade", Upgrade="websocket"),
        ),
        "a body of 5 GiB": ((404, 413), put),
        "a negative length": ((400,), bad_length),
        "two lengths": (
            (400,),
            request(client, "/session", "POST", b"{}").replace(
                b"Content-Length: 2", b"Content-Length: 2\r\nContent-Length: 40"
            ),
        ),
        "length and chunks": ((400, 401, 429), both),
        "a bad chunk": (
            (400,),
            request(
                client,
                "/session",
                "POST",
                b"zz\r\n",
                Transfer_Encoding="chunked",
                Content_Length=None,
            ),
        ),
        "a token of 60 kB": ((413,), request(client, "/session", "POST", b"1" * 60_000)),
        "deep JSON": ((401, 429), request(client, "/session", "POST", b"[" * 9000)),
        "a token of another kind": (
            (401, 429),
            request(client, "/session", "POST", b'{"token":1}'),
        ),
        "multipart": (
            (404,),
            request(
                client,
                f"/jobs/{JOB}/look",
                "POST",
                b"--a\r\n\r\n",
                Content_Type="multipart/form-data; boundary=a",
            ),
        ),
        "a file of no job": ((404,), request(client, f"/jobs/{JOB}/files/{JOB}", "PUT", b"x")),
    }


def test_odd_requests_are_refused_and_leave_nothing(served: Client, tmp_path: Path) -> None:
    before, others = served.memory_mb(), dict[str, bytes]()
    for name, (expected, content) in odd(served).items():
        answer = timed(served, content)
        if status(answer) not in expected:
            others[name] = answer
        assert CANARY not in answer
        assert served.ask("GET", "/health").json == {"ok": True}, name
    assert others == {}
    assert served.memory_mb() - before <= 10
    assert served.ask("GET", "/jobs").json == {"jobs": []}


def test_the_eleventh_wrong_token_in_a_minute_is_not_looked_at(served: Client) -> None:
    for _ in range(TOKEN_LIMIT):
        served.ask("POST", "/session", json.dumps({"token": "x"}).encode())
    assert served.ask("POST", "/session", b"{}").status == 429


def test_every_answer_bears_the_policy(served: Client) -> None:
    for path in ("/", "/app.js", "/jobs", "/nothing", f"/jobs/{JOB}"):
        headers = {name.lower(): value for name, value in served.ask("GET", path).headers.items()}
        assert headers["content-security-policy"].startswith("default-src 'self'")
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "location" not in headers
        assert not any("access-control" in name for name in headers)


def test_it_listens_on_loopback_only_and_its_token_is_in_no_argument(served: Client) -> None:
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    port = f"{served.port:04X}"
    listening = [row[1] for row in rows if row[3] == "0A" and row[1].endswith(":" + port)]
    assert listening == [f"0100007F:{port}"]
    words = Path(f"/proc/{served.process.pid}/cmdline").read_bytes()
    assert served.token.encode() not in words


def test_server_imports_nothing_that_reads_scans(served: Client) -> None:
    maps = Path(f"/proc/{served.process.pid}/maps").read_text()
    for name in (
        "torch",
        "numpy",
        "pydicom",
        "nibabel",
        "openvino",
        "onnxruntime",
        "pyexpat",
        "lxml",
    ):
        assert f"/{name}" not in maps, name
    assert served.memory_mb() <= 80

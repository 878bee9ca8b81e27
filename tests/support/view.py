"""A server of `ctmr view` in a process of its own, and a client that speaks as the page does."""

import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

READING: dict[str, Any] = {
    "geometry": None,
    "irregular": False,
    "anyway": False,
    "series": [],
    "ct_values": None,
}


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """The page's end, without a browser."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process, self.url = process, url
        self.port = int(url.split(":")[2].split("/")[0])
        self.token = url.split("#")[1]
        self.origin = f"http://127.0.0.1:{self.port}"
        self.cookie = ""

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        own = {"Host": f"127.0.0.1:{self.port}", "Cookie": self.cookie}
        if method != "GET":
            own |= {"Origin": self.origin, "X-CTMR": "1"}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body, own | dict(headers or {}))
        answer = connection.getresponse()
        found = Answer(answer.status, dict(answer.getheaders()), answer.read())
        connection.close()
        return found

    def enter(self) -> None:
        """Exchange the token for the cookie."""
        answer = self.ask("POST", "/session", json.dumps({"token": self.token}).encode())
        assert answer.status == 204, answer
        lowered = {name.lower(): value for name, value in answer.headers.items()}
        self.cookie = lowered["set-cookie"].split(";")[0]

    def upload(self, *contents: bytes) -> str:
        """A new job with these files."""
        job = self.ask("POST", "/jobs", b"").json["id"]
        for content in contents:
            answer = self.ask("PUT", f"/jobs/{job}/files/{secrets.token_hex(16)}", content)
            assert answer.status in (200, 415), answer
        return str(job)

    def wait(self, job: str, *states: str, limit: float = 120) -> dict[str, Any]:
        until = time.monotonic() + limit
        while time.monotonic() < until:
            shown: dict[str, Any] = self.ask("GET", f"/jobs/{job}").json
            if shown["state"] in states:
                return shown
            time.sleep(0.05)
        raise AssertionError(f"still {shown}")

    def look(self, job: str) -> dict[str, Any]:
        answer = self.ask("POST", f"/jobs/{job}/look", b"")
        assert answer.status == 202, answer
        return self.wait(job, "looked", "failed")

    def translate(self, job: str, to: str, **changes: Any) -> Answer:
        model = self.ask("GET", "/models").json["models"][0]["sha256"]
        reading = READING | changes.pop("reading", {})
        order = {"to": to, "model": model, "quality": "fast", "slices": False, "reading": reading}
        return self.ask("POST", f"/jobs/{job}/translate", json.dumps(order | changes).encode())

    def result(self, job: str, to: str, **changes: Any) -> dict[str, Any]:
        """Translate, and wait for the end."""
        answer = self.translate(job, to, **changes)
        assert answer.status == 202, answer
        return self.wait(job, "done", "failed", "cancelled")

    def memory_mb(self) -> float:
        """Of the server's process."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) / 1024

    def raw(self, request: bytes, *, wait: float = 5) -> bytes:
        """Send bytes as they are; what comes back until the server closes or says no more."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=wait) as connection:
            connection.sendall(request)
            found = b""
            try:
                while part := connection.recv(65536):
                    found += part
                    head, end, body = found.partition(b"\r\n\r\n")
                    length = [
                        line for line in head.lower().split(b"\r\n") if b"content-length" in line
                    ]
                    if end and length and len(body) >= int(length[0].split(b":")[1]):
                        break
            except (TimeoutError, ConnectionResetError):
                pass
            return found


@contextmanager
def view(*words: str, temporary: Path, prefix: tuple[str, ...] = ()) -> Iterator[Client]:
    """A running `ctmr view`, whose folder lies in `temporary`."""
    environment = os.environ | {"TMPDIR": str(temporary)}
    process = subprocess.Popen(
        [*prefix, sys.executable, "-m", "ctmr", "view", "--no-open", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:"), process.stderr.read()
        client = Client(process, url)
        client.enter()
        yield client
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        process.stderr.close()

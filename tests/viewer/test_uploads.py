"""How much may be sent, counted while it comes, whatever the header of the request says; nothing of a refusal stays."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import Response

from ctmr.viewer.jobs import Job
from ctmr.viewer.limits import MAX_FILES
from ctmr.viewer.uploads import receive

PNG = b"\x89PNG\r\n\x1a\n" + bytes(592)  # 600 bytes


@pytest.fixture
def job(tmp_path: Path) -> Job:
    (tmp_path / "scan").mkdir()
    return Job("a" * 32, tmp_path, 0.0)


@pytest.fixture
def limits() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ctmr.viewer.uploads.MAX_BYTES", 1000)
        yield patch


def put(
    job: Job, name: str, *parts: bytes, length: int | None = None, ends: bool = True
) -> Response:
    """What a PUT of these parts gets; without an end the sender waits after them."""
    left = list(parts)

    async def more() -> dict[str, object]:
        if not left and not ends:
            await asyncio.sleep(60)
        body = left.pop(0) if left else b""
        return {"type": "http.request", "body": body, "more_body": bool(left) or not ends}

    headers = [] if length is None else [(b"content-length", str(length).encode())]
    scope = {"type": "http", "method": "PUT", "headers": headers, "path_params": {"file": name}}
    return asyncio.run(receive(Request(scope, more), job))


def files(job: Job) -> list[str]:
    return sorted(path.name for path in job.folder.rglob("*") if path.is_file())


@pytest.mark.usefixtures("limits")
def test_bytes_are_counted_while_they_stream(job: Job) -> None:
    answer = put(job, "b" * 32, PNG, PNG)
    assert answer.status_code == 413
    assert json.loads(answer.body)["error"]["what"].startswith("expected at most")
    assert (files(job), job.files) == ([], {})


@pytest.mark.usefixtures("limits")
def test_length_beyond_the_limit_is_refused_before_a_byte_is_read(job: Job) -> None:
    assert put(job, "b" * 32, length=1001, ends=False).status_code == 413
    assert (files(job), job.files) == ([], {})


@pytest.mark.usefixtures("limits")
def test_all_files_together_have_the_limit(job: Job) -> None:
    assert put(job, "b" * 32, PNG).status_code == 200
    assert put(job, "c" * 32, PNG).status_code == 413
    assert files(job) == ["0001.png"]


def test_number_of_files_has_a_limit(job: Job) -> None:
    job.files = {f"{n:032x}": 1 for n in range(MAX_FILES)}
    assert put(job, "b" * 32, PNG).status_code == 413
    assert files(job) == []


@pytest.mark.parametrize("limit", ["IDLE_S", "TOTAL_S"])
def test_sender_who_stops_is_not_waited_for(
    job: Job, limits: pytest.MonkeyPatch, limit: str
) -> None:
    limits.setattr(f"ctmr.viewer.uploads.{limit}", 0.05)
    assert put(job, "b" * 32, PNG, ends=False).status_code == 408
    assert (files(job), job.files) == ([], {})


@pytest.mark.parametrize("state", ["full", "there already", "too long"])
def test_refused_sender_may_send_all_before_the_answer(job: Job, state: str) -> None:
    """Else a connection that is closed on him takes the answer along."""
    name, parts, taken = "b" * 32, 50, list[int]()
    job.files = {f"{n:032x}": 1 for n in range(MAX_FILES)} if state == "full" else job.files
    job.files = {name: 1} if state == "there already" else job.files

    async def more() -> dict[str, object]:
        await asyncio.sleep(0.02)  # one second in all, longer than nothing may come
        taken.append(1)
        return {"type": "http.request", "body": PNG, "more_body": len(taken) < parts}

    headers = [(b"content-length", b"9" * 20)] if state == "too long" else []
    scope = {"type": "http", "method": "PUT", "headers": headers, "path_params": {"file": name}}
    status = asyncio.run(receive(Request(scope, more), job)).status_code
    assert (status, len(taken)) == (409 if state == "there already" else 413, parts)

"""One file, sent as the body of a PUT: counted while it streams, named by us, told by its first bytes."""

import asyncio
import contextlib
import errno
from pathlib import Path
from typing import IO

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from ctmr.viewer.guard import refusal
from ctmr.viewer.jobs import Job
from ctmr.viewer.limits import IDLE_S, LINGER_IDLE_S, LINGER_S, MAX_BYTES, MAX_FILES, TOTAL_S
from ctmr.viewer.sniff import suffix_of

_TOO_LARGE = f"expected at most {MAX_BYTES} bytes and {MAX_FILES} files"


class _Refused(Exception):
    """An upload that is given up."""

    def __init__(self, status: int, what: str, fix: str, code: str = "E300") -> None:
        super().__init__(what)
        self.answer = refusal(status, what, fix, code)


async def receive(request: Request, job: Job) -> Response:
    """Take the file into the job's folder, as `scan/0001.dcm` and so on, or leave nothing of it."""
    name = request.path_params["file"]
    if name in job.files or job.state != "new":
        await _let_go(request)
        return refusal(409, "this file is there already", "drop it again")
    length = request.headers.get("content-length", "0")
    if len(job.files) >= MAX_FILES or not length.isdecimal() or _left(job) < int(length):
        await _let_go(request)
        return refusal(413, _TOO_LARGE, "drop one series or one volume")
    job.files[name] = 0
    draft = job.folder / name
    try:
        with draft.open("xb") as file:
            async with asyncio.timeout(TOTAL_S):
                await _stream(request, job, name, file)
        return await asyncio.to_thread(_take, job, draft, name)
    except _Refused as error:
        await _let_go(request)
        return error.answer
    except ClientDisconnect:
        return Response(status_code=400)
    except TimeoutError:
        return refusal(408, f"nothing came for {IDLE_S:g} s, or not all", "drop it again", "E300")
    except OSError as error:
        await _let_go(request)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        what = f"cannot keep it ({error.strerror})"
        return refusal(507 if full else 503, what, "free space in the temporary folder", "E400")
    finally:
        if draft.exists():  # it was not taken
            draft.unlink()
            del job.files[name]


def _left(job: Job) -> int:
    return MAX_BYTES - sum(job.files.values())


async def _stream(request: Request, job: Job, name: str, file: IO[bytes]) -> None:
    """Write what comes, as long as it comes and is not too much."""
    parts = request.stream()
    while True:
        async with asyncio.timeout(IDLE_S):
            part = await anext(parts, None)
        if part is None:
            return
        if len(part) > _left(job):
            raise _Refused(413, _TOO_LARGE, "drop one series or one volume")
        job.files[name] += len(part)
        await asyncio.to_thread(file.write, part) if len(part) > 2**16 else file.write(part)


async def _let_go(request: Request) -> None:
    """Read on as long as it comes: a connection that is closed on a sender takes the answer along."""
    parts = request.stream()
    with contextlib.suppress(
        TimeoutError, ClientDisconnect, RuntimeError
    ):  # the last: it was the end
        async with asyncio.timeout(LINGER_S):
            part: bytes | None = b""
            while part is not None:
                async with asyncio.timeout(LINGER_IDLE_S):
                    part = await anext(parts, None)


def _take(job: Job, draft: Path, name: str) -> Response:
    """Give a file that is whole its name, if it is a scan."""
    suffix = suffix_of(draft)
    if suffix is None:
        what = "expected DICOM, NIfTI, MetaImage, NRRD, MGH, PNG, JPEG, TIFF or .zip: found another file"
        return refusal(415, what, "leave it out", "E300")
    job.numbers += 1
    draft.rename(job.folder / "scan" / f"{job.numbers:04}{suffix}")
    return JSONResponse({"format": suffix, "bytes": job.files[name]})

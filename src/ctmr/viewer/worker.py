"""The server's end of a child process: it is started, spoken to in lines of JSON, and ended with its group."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

MAX_LINE_BYTES = 2**22


class Worker:
    """A child process that is made for one job."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, folder: Path) -> "Worker":
        """Start one that works in a folder; it is ready for orders at once, and takes them when it can."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "ctmr.viewer.child"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            cwd=folder,
            start_new_session=True,
            limit=MAX_LINE_BYTES,
        )
        return cls(process)

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.returncode is None

    def order(self, **order: Any) -> None:
        """Send an order."""
        if self._process.stdin is not None:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")

    async def answers(self) -> AsyncIterator[dict[str, Any]]:
        """What it says, up to its end."""
        if self._process.stdout is None:
            return
        with contextlib.suppress(ValueError):  # a line without an end
            async for line in self._process.stdout:
                yield json.loads(line)

    def how_it_ended(self) -> str:
        """Its signal or exit code in words."""
        code = self._process.returncode
        if code is not None and code < 0:
            return signal.Signals(-code).name
        return f"exit code {code}"

    async def end(self) -> None:
        """End it and whatever it started, at once."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()

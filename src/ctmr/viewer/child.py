"""The process of one job: it reads what was uploaded, translates it as `ctmr translate` does, and ends with the server.

It takes orders as lines of JSON from its standard input and answers so on its standard output. It is made ready before
there is a job: the libraries are imported, and the model that comes with ctmr is loaded.
"""

import contextlib
import json
import logging
import os
import queue
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from ctmr.errors import CtmrError, OutputError, ResourceError
from ctmr.viewer.limits import confine

MAX_NOTES = 20


def main() -> None:
    """Serve one job, then end."""
    confine()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print goes nowhere
    orders: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin, orders), daemon=True).start()
    notes = _Notes(answers)
    logging.basicConfig(level=logging.WARNING, handlers=[notes])
    logging.getLogger("ctmr.found").setLevel(logging.INFO)
    from ctmr.viewer.job import Job  # takes seconds: numpy, nibabel, pydicom, the engine

    with _errors(answers, None):
        job = Job(lambda **answer: _say(answers, answer))
        _say(answers, {"ready": True})
    while True:
        order = orders.get()
        folder = Path(order["folder"])
        notes.hidden = str(folder)
        os.chdir(folder)
        (folder / "tmp").mkdir(exist_ok=True)
        tempfile.tempdir = str(folder / "tmp")
        with _errors(answers, folder):
            if order["do"] == "look":
                job.look(folder)
            else:
                job.translate(folder, order)


def _listen(source: IO[str], orders: "queue.SimpleQueue[dict[str, Any]]") -> None:
    """Take orders until the server is gone, and then end the whole group at once."""
    for line in source:
        orders.put(json.loads(line))
    os.killpg(0, signal.SIGKILL)


def _say(answers: IO[str], answer: Mapping[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


class _Notes(logging.Handler):
    """Sends warnings to the page, without the path of the job's folder."""

    def __init__(self, answers: IO[str]) -> None:
        super().__init__()
        self.hidden = ""
        self._answers, self._sent = answers, set[str]()

    def emit(self, record: logging.LogRecord) -> None:
        """Send it, unless it was, or there are many."""
        if not record.name.startswith("ctmr"):
            return  # what libraries log may hold texts of headers
        text = without(record.getMessage(), self.hidden)
        if text not in self._sent and len(self._sent) < MAX_NOTES:
            self._sent.add(text)
            _say(self._answers, {"note": text})


def without(text: str, folder: str) -> str:
    """A message without the path of a folder, which says nothing to a user."""
    return text.replace(folder + "/", "") if folder else text


@contextlib.contextmanager
def _errors(answers: IO[str], folder: Path | None) -> Iterator[None]:
    """Send an error as the command line would show it."""
    started = time.monotonic()
    try:
        yield
    except Exception as error:
        known = _ctmr_error(error)
        shown = {
            key: without(value, str(folder)) if isinstance(value, str) else value
            for key, value in known.as_json().items()
        }
        _say(answers, {"error": shown, "seconds": round(time.monotonic() - started, 3)})


def _ctmr_error(error: Exception) -> CtmrError:
    """The error as one with a code and a fix; the text of another may name a patient."""
    from ctmr.system.memory import is_want_of_memory

    if isinstance(error, CtmrError):
        return error
    if is_want_of_memory(error):
        fix = "close other programs, or drop a smaller scan"
        return ResourceError("out of memory while the scan was read or translated", fix=fix)
    if isinstance(error, ModuleNotFoundError):
        what = f"the model needs {error.name}, which is not installed"
        return ResourceError(what, fix="pip install 'ctmr[train]'")
    if isinstance(error, OSError):
        what = f"cannot read or write its files ({error.strerror})"
        return OutputError(what, fix="check free space of the temporary folder")
    fix = "translate it with ctmr translate, which writes a report of the error"
    return CtmrError(f"unexpected {type(error).__name__}", fix=fix)


if __name__ == "__main__":
    main()

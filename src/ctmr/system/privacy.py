"""What libraries warn and log of odd metadata, which may name a patient, is kept out of logs and terminal."""

import contextlib
import logging
import os
import threading
import warnings
from collections.abc import Iterator

LIBRARIES = ("PIL", "pydicom", "tifffile")
# The only lock of filters and loggers, which are of the process: two threads would restore each other's.
_LOCK = threading.Lock()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Ignore what libraries warn and log, in one thread at a time; not to be nested."""
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    nowhere = logging.NullHandler()  # without any, logging prints on stderr by itself
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        propagated = [logger.propagate for logger in loggers]
        try:
            for logger in loggers:
                logger.addHandler(nowhere)
                logger.propagate = False
            yield
        finally:
            for logger, before in zip(loggers, propagated, strict=True):
                logger.removeHandler(nowhere)
                logger.propagate = before


@contextlib.contextmanager
def without_stderr() -> Iterator[None]:
    """Drop what is written to stderr, as libtiff does by itself; within `quiet`, so that no two threads do it at once."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)

"""What libraries warn and log of odd metadata, which may name a patient, is kept out of logs and terminal."""

import contextlib
import logging
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
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        propagated = [logger.propagate for logger in loggers]
        try:
            for logger in loggers:
                logger.propagate = False
            yield
        finally:
            for logger, before in zip(loggers, propagated, strict=True):
                logger.propagate = before

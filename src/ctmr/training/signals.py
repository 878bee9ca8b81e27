"""The signals that end a training."""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from ctmr.errors import Stopped

_CHECKPOINT = getattr(signal, "SIGUSR1", None)  # asks for one


class StopSignals:
    """Turns SIGINT, SIGTERM and SIGHUP into a flag while training, SIGUSR1 into a request for a checkpoint.

    A second SIGINT interrupts at once. A SIGHUP that is ignored, as under nohup, stays so.
    Windows has neither SIGHUP nor SIGUSR1.

    Attributes:
        received: Number of the signal that asks to stop, None as long as there was none.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._requested = False
        self._at_once = False

    def __enter__(self) -> "StopSignals":
        self._previous: dict[int, Any] = {}
        with contextlib.suppress(ValueError):  # not the main thread: the caller's signals stay
            hangup = getattr(signal, "SIGHUP", None)
            for number in (signal.SIGINT, signal.SIGTERM, hangup, _CHECKPOINT):
                if number is None or (
                    number == hangup and signal.getsignal(number) == signal.SIG_IGN
                ):
                    continue
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def at_once(self, run: Path) -> Iterator[None]:
        """Stop at once, with `Stopped`, while there is nothing to save yet."""
        self._at_once = True
        try:
            yield
        except KeyboardInterrupt:
            if self.received is None:
                raise
            raise Stopped(
                f"stopped before its first step by signal {self.received}",
                file=run,
                fix="run it again",
                signal_number=self.received,
            ) from None
        finally:
            self._at_once = False

    def require_none(self, where: str, run: Path) -> None:
        """Raise `Stopped` if there was a signal."""
        if self.received is not None:
            raise Stopped(
                f"stopped at {where} by signal {self.received}",
                file=run,
                fix="go on with --resume",
                signal_number=self.received,
            )

    def take_request(self) -> bool:
        """Whether a checkpoint was asked for since the last call."""
        requested, self._requested = self._requested, False
        return requested

    def _note(self, number: int, _: FrameType | None) -> None:
        if number == _CHECKPOINT:
            self._requested = True
            return
        self.received = number
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._at_once:
            raise KeyboardInterrupt

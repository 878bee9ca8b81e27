"""The signals that end a training."""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from ctmr.errors import CtmrError, Stopped, ToldElsewhere
from ctmr.training.processes import Processes

_CHECKPOINT = getattr(signal, "SIGUSR1", None)  # asks for one


class StopSignals:
    """Turns SIGINT, SIGTERM and SIGHUP into a flag while training, SIGUSR1 into a request for a checkpoint.

    A second SIGINT interrupts at once. A SIGHUP that is ignored, as under nohup, stays so.
    Windows has neither SIGHUP nor SIGUSR1.

    Attributes:
        received: Number of the signal that asks to stop, None as long as there was none. Of several processes all have the
            same, from `agree` on.
        noted: That of this process.
    """

    def __init__(self) -> None:
        self.noted: int | None = None
        self.received: int | None = None
        self._requested = self._asked = False  # of this process; of any of them
        self._shared, self._rank = False, 0
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
        if self._shared:
            return  # a launcher sends one as soon as the first process ends: the others have their say
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def at_once(self, run: Path) -> Iterator[None]:
        """Stop at once, with `Stopped`, while there is nothing to save yet."""
        self._at_once = True
        try:
            yield
        except KeyboardInterrupt:
            if self.noted is None:
                raise
            raise Stopped(
                f"stopped before its first step by signal {self.noted}",
                file=run,
                fix="run it again",
                signal_number=self.noted,
            ) from None
        finally:
            self._at_once = False

    def agree(self, processes: Processes, failed: CtmrError | None = None) -> None:
        """Let all processes act upon what any of them was asked for, at the same step, or end as one that has failed.

        Args:
            processes: Of which each calls this once between two steps.
            failed: What ends this one.

        Raises:
            CtmrError: `failed`.
            ToldElsewhere: If another process has failed.
        """
        self._rank = processes.rank
        self._shared = processes.count > 1
        requested, self._requested = self._requested, False
        number, asked, code = processes.greatest(
            self.noted or 0, requested, failed.exit_code if failed is not None else 0
        )
        self.received, self._asked = number or None, self._asked or bool(asked)
        if failed is not None:
            raise failed
        if code:
            raise ToldElsewhere(code)

    def require_none(self, where: str, run: Path) -> None:
        """End with `Stopped` if there was a signal; processes but the first end silently."""
        if self.received is None:
            return
        stopped = Stopped(
            f"stopped at {where} by signal {self.received}",
            file=run,
            fix="go on with --resume",
            signal_number=self.received,
        )
        raise stopped if self._rank == 0 else ToldElsewhere(stopped.exit_code)

    def take_request(self) -> bool:
        """Whether a checkpoint was asked for since the last call."""
        if not self._shared:
            self._asked, self._requested = self._requested, False
        asked, self._asked = self._asked, False
        return asked

    def _note(self, number: int, _: FrameType | None) -> None:
        if number == _CHECKPOINT:
            self._requested = True
            return
        self.noted = number
        if not self._shared:
            self.received = number
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._at_once:
            raise KeyboardInterrupt

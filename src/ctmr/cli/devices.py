"""What `--devices` and `--device` mean, for the commands that have them."""

import os
from typing import TYPE_CHECKING, Literal, NamedTuple

from ctmr.cli.output import is_launched
from ctmr.errors import UsageError
from ctmr.system.parallel import LAUNCHER

if TYPE_CHECKING:  # NumPy comes with it
    from ctmr.types import WantedDevice


class Several(NamedTuple):
    """Processes that are to be started on this machine."""

    processes: int
    device: Literal["cpu", "cuda"]


def processes_wanted(devices: int | None, device: "WantedDevice") -> Several | None:
    """The processes that this one is to start; None if it is to do the work itself.

    Raises:
        UsageError: If torchrun says how many there are, this machine has no place for so many, or there is no GPU.
    """
    if is_launched():
        if devices is not None and LAUNCHER not in os.environ:
            raise UsageError(
                "torchrun says how many processes there are, so that --devices has no use",
                fix="leave out --devices",
            )
        return None
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # whatever looks for one
    if devices is None and device != "cuda":
        return None
    from ctmr.models.devices import chosen_device, require_places

    found = chosen_device(device)
    require_places(1 if devices is None else devices, found)
    return Several(devices, found) if devices is not None and devices > 1 else None

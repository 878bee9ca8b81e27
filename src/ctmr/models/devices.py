"""On what networks run: a GPU where there is one, else the processor; and how many processes there is a place for."""

import functools
import logging
import os
import shutil
from pathlib import Path
from typing import Literal

from ctmr.errors import UsageError
from ctmr.models.engines import has_gpu, missing
from ctmr.system.parallel import cores
from ctmr.types import WantedDevice

logger = logging.getLogger(__name__)

NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


def chosen_device(wanted: WantedDevice) -> Literal["cpu", "cuda"]:
    """The device wanted; `auto` is a GPU where there is one, with a warning where it cannot be used.

    Raises:
        UsageError: If a GPU is wanted and PyTorch finds none.
    """
    if wanted == "cpu":
        return "cpu"
    if not missing("torch") and has_gpu():
        return "cuda"
    if wanted == "cuda":
        raise UsageError(
            f"--device cuda needs a GPU that PyTorch can use: {_state()}",
            fix="leave it out, or install what is missing",
        )
    _warn_of_idle_gpu()
    return "cpu"


def require_places(count: int, device: Literal["cpu", "cuda"]) -> None:
    """Refuse a number of processes that this machine has no place for.

    Raises:
        UsageError: If there are fewer GPUs, or without a GPU fewer cores.
    """
    if count < 1:
        raise UsageError(f"--devices must be at least 1: found {count}", fix="raise it")
    there, what = cores(), "cores"
    if device == "cuda":
        import torch

        there, what = torch.cuda.device_count(), "GPUs"
    if count > max(1, there):
        raise UsageError(
            f"--devices {count} needs as many {what}: this machine has {there}",
            fix=f"--devices {there}",
        )


def counted(number: int, what: str) -> str:
    """`1 process`, `2 processes`."""
    return f"{number} {what}" + ("" if number == 1 else "es" if what.endswith("s") else "s")


@functools.cache  # said once, though a demo trains twice
def _warn_of_idle_gpu() -> None:
    """Say what to install where there is an NVIDIA driver that PyTorch cannot use."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    if not hidden and (NVIDIA_DRIVER.exists() or shutil.which("nvidia-smi") is not None):
        logger.warning("this machine has an NVIDIA driver, but the CPU does the work: %s", _state())


def _state() -> str:
    """Why PyTorch has no GPU, and what to do."""
    if missing("torch"):
        return "PyTorch is not installed: for the GPU, pip install 'ctmr[train]'"
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        what = f"PyTorch {torch.__version__} has no CUDA"
        return f"{what}: for the GPU, pip install --force-reinstall torch"
    return (
        f"PyTorch {torch.__version__} finds no GPU: see nvidia-smi; CUDA {torch.version.cuda} may need a"
        " newer driver"
    )

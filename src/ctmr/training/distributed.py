"""Devices and precision: the only place that knows lightning-fabric."""

import functools
import logging
import os
import shutil
import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor

from ctmr.models.torch_engine import choose_precision
from ctmr.system.contained import import_compiler

logger = logging.getLogger(__name__)

NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


class Runtime:
    """Where networks run and in which precision; deterministic on every device.

    Attributes:
        device: Where parameters and batches belong.
        precision: Of the multiplications; weights, losses and optimiser stay in float32.
        queues: Whether work is queued, so that reading a number waits for all of it.
    """

    def __init__(self, precision: Literal["auto", "float32", "bfloat16"]) -> None:
        _warn_of_idle_gpu()
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA starts
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its imports, not of ours
            import_compiler()  # as Fabric does, and each optimiser
            from lightning_fabric import Fabric

            logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
            accelerator = "cuda" if torch.cuda.is_available() else "cpu"
            self.precision = choose_precision(precision, accelerator)
            self._fabric = Fabric(
                accelerator=accelerator,
                devices=1,
                precision="bf16-mixed" if self.precision == "bfloat16" else "32-true",
            )
        self.device = self._fabric.device
        self.queues = self.device.type == "cuda"
        torch.use_deterministic_algorithms(True)
        # Nothing here reads memory before it is written, and filling it costs 2 to 5 % of a step.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = False
        logger.info("training on %s in %s", self.device, self.precision)

    def autocast(self) -> AbstractContextManager[None]:
        """The context in which networks run forward: multiplications in `precision`."""
        return cast(AbstractContextManager[None], self._fabric.autocast())

    def to_device(self, batch: Tensor) -> Tensor:
        """A batch on the device, copied without waiting where it is pinned."""
        return batch.to(self.device, non_blocking=True)

    def device_name(self) -> str:
        """The kind of device, e.g. `cpu` or the name of the GPU."""
        if self.device.type != "cuda":
            return "cpu"
        return torch.cuda.get_device_name(self.device)


@functools.cache  # said once, though a demo trains twice
def _warn_of_idle_gpu() -> None:
    """Say what to install where there is an NVIDIA driver and a PyTorch for CPUs alone."""
    built_for_gpus = torch.version.cuda is not None or torch.version.hip is not None
    if not built_for_gpus and (NVIDIA_DRIVER.exists() or shutil.which("nvidia-smi") is not None):
        logger.warning(
            "this machine has an NVIDIA driver, but PyTorch %s has no CUDA, so that training runs on the CPU:"
            " for the GPU, pip install --force-reinstall torch",
            torch.__version__,
        )

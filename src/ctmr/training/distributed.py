"""Devices, precision, and the processes of a parallel run: the only place that knows lightning-fabric."""

import logging
import os
import warnings
from contextlib import AbstractContextManager
from typing import Literal, cast

import torch
from torch import Tensor

from ctmr.models.devices import chosen_device, counted
from ctmr.models.torch_engine import choose_precision
from ctmr.system.contained import import_compiler
from ctmr.training.processes import Processes, launched, loopback_only
from ctmr.types import WantedDevice


class Runtime:
    """Where networks run, in which precision and by how many processes; deterministic on every device.

    Attributes:
        device: Where parameters and batches belong.
        precision: Of the multiplications; weights, losses and optimiser stay in float32.
        queues: Whether work is queued, so that reading a number waits for all of it.
        processes: This one, and those that a launcher started with it.

    Raises:
        UsageError: If a GPU is wanted and there is none.
    """

    def __init__(
        self, precision: Literal["auto", "float32", "bfloat16"], device: WantedDevice = "auto"
    ) -> None:
        accelerator = chosen_device(device)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA starts
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its imports, not of ours
            import_compiler()  # as Fabric does, and each optimiser
            from lightning_fabric import Fabric

            logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
            self.precision = choose_precision(precision, accelerator)
            machine = launched()
            if machine is not None:
                loopback_only(machine)
            self._fabric = Fabric(
                accelerator=accelerator,
                devices=1 if machine is None or accelerator == "cpu" else [machine.local_rank],
                precision="bf16-mixed" if self.precision == "bfloat16" else "32-true",
            )
        self.device = self._fabric.device
        self.queues = self.device.type == "cuda"
        self.processes = Processes(machine, self.device)
        torch.use_deterministic_algorithms(True)
        # Nothing here reads memory before it is written, and filling it costs 2 to 5 % of a step.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = False

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

    def __str__(self) -> str:
        """What trains: device, precision, processes and the threads of each."""
        threads = torch.get_num_threads()
        return (
            f"{self.device_name()}, {self.precision}, {counted(self.processes.count, 'process')},"
            f" {counted(threads, 'thread')} each"
        )

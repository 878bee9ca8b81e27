"""Run a generator on whole images by OpenVINO, ONNX Runtime or PyTorch: padding, layout and precision behind one call.

Without PyTorch: `models/torch_engine.py` has what needs it.
"""

import functools
import importlib.util
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from ctmr.errors import ResourceError, UsageError
from ctmr.models.card import Card
from ctmr.system.contained import without_telemetry
from ctmr.system.memory import free_bytes, is_want_of_memory
from ctmr.system.parallel import threads
from ctmr.types import Direction, FloatArray

Engine = Literal["torch", "openvino", "onnx"]
Precision = Literal["float32", "bfloat16"]
WantedPrecision = Literal["auto", "float32", "bfloat16"]
Forward = Callable[[FloatArray], FloatArray]
"""A generator at work: (N, C, h, w) in [-1, 1] to the same, h and w as it needs them."""

NEEDS: Mapping[Engine, tuple[str, ...]] = {
    "torch": ("torch",),
    "openvino": ("openvino",),
    "onnx": ("onnxruntime",),
}
_EXTRA: Mapping[Engine, str] = {
    "torch": "ctmr[train]",
    "openvino": "ctmr[openvino]",
    "onnx": "onnxruntime",
}
_CPUINFO = Path("/proc/cpuinfo")
# Where a driver of a GPU shows itself, so that PyTorch, which takes seconds to import, is only asked where there may be one.
_DRIVERS = ("/dev/nvidiactl", "/proc/driver/nvidia", "/dev/dxg", "/dev/kfd")


@dataclass(frozen=True, eq=False)
class Network:
    """A generator made ready by an engine.

    Attributes:
        forward: Runs it.
        multiple: Of which height and width have to be multiples.
        smallest: Height and width that it takes at least.
    """

    forward: Forward
    multiple: int
    smallest: int


class RunnableModel(Protocol):
    """What a translation needs of a model, whether PyTorch holds it or a graph in a file."""

    @property
    def card(self) -> Card:
        """What `model.json` says."""

    def network(self, direction: Direction, engine: Engine, precision: Precision) -> Network:
        """One of its generators, made ready."""


def run_batch(network: Network, images: FloatArray) -> FloatArray:
    """Translate images (N, H, W, C) in [-1, 1] of one size together, whole: no tiles, so no seams.

    Each is mirrored at its border up to a shape that fits. Where memory does not suffice, half of them at a time, down to one.

    Returns:
        (N, H, W, C) in [-1, 1].

    Raises:
        ResourceError: If memory does not suffice for one.
    """
    height, width = images.shape[1:3]
    around = [_padding(side, network.multiple, network.smallest) for side in (height, width)]
    padded = np.pad(images, ((0, 0), *around, (0, 0)), mode="symmetric").transpose(0, 3, 1, 2)
    array = _in_parts(network.forward, np.ascontiguousarray(padded)).transpose(0, 2, 3, 1)
    (top, _), (left, _) = around
    return array[:, top : top + height, left : left + width]  # (N, H, W, C)


def _in_parts(forward: Forward, images: FloatArray) -> FloatArray:
    """Images (N, C, h, w) through a generator, together or, for want of memory, half of them at a time."""
    try:
        return forward(images)
    except (MemoryError, OSError, RuntimeError) as error:
        if not is_want_of_memory(error):
            raise
        if len(images) == 1:
            height, width = images.shape[2:]
            free = free_bytes()
            raise ResourceError(
                f"expected memory to translate an image of {height} x {width} pixels: found"
                f" {'too little' if free is None else f'{free:,} bytes free'}",
                fix="free memory, or take a machine with more",
            ) from error
    half = len(images) // 2
    return np.concatenate([_in_parts(forward, images[:half]), _in_parts(forward, images[half:])])


def _padding(side: int, multiple: int, smallest: int) -> tuple[int, int]:
    """Pixels before and after, so that the side is a multiple and not too small."""
    wanted = max(smallest, -(-side // multiple) * multiple)
    return (wanted - side) // 2, wanted - side - (wanted - side) // 2


# -- which engine ----------------------------------------------------------------------------------


def best_engine(*, exported: bool) -> Engine:
    """The fastest engine there is (`ctmr help performance`): PyTorch on a GPU, else OpenVINO if it is installed.

    A graph goes to ONNX Runtime, which starts sooner and needs less memory, unless the processor multiplies in bfloat16:
    that only OpenVINO does.

    Args:
        exported: Whether the model is a graph.
    """
    if not missing("torch") and has_gpu():
        return "torch"
    if missing("openvino"):
        return "onnx" if exported else "torch"
    return "openvino" if not exported or _processor_has_bfloat16() else "onnx"


def _processor_has_bfloat16() -> bool:
    """What Linux says of it, without the second that importing OpenVINO takes; elsewhere False."""
    try:
        return "bf16" in _CPUINFO.read_text()
    except OSError:
        return False


def has_gpu() -> bool:
    """Whether PyTorch, which has to be installed, finds a GPU; it is not imported where there is no driver of one."""
    nvcuda = Path(os.environ.get("SYSTEMROOT", "/nowhere"), "System32", "nvcuda.dll")
    if not any(Path(path).exists() for path in (*_DRIVERS, nvcuda)):
        return False
    import torch

    return torch.cuda.is_available()


def missing(engine: Engine) -> list[str]:
    """The packages that an engine lacks."""
    return [name for name in NEEDS[engine] if importlib.util.find_spec(name) is None]


def require_engine(engine: Engine, wanted: WantedPrecision) -> None:
    """Refuse an engine that is not installed, or cannot multiply in that precision.

    Raises:
        UsageError: Naming what to install, or what to leave out.
    """
    if lacking := missing(engine):
        raise UsageError(
            f"the engine {engine} needs {' and '.join(lacking)}: not installed",
            fix=f"pip install '{_EXTRA[engine]}', or leave out --engine",
        )
    if engine == "openvino" and wanted == "bfloat16" and not openvino_has_bfloat16():
        raise UsageError(
            "expected float32, as this processor does not multiply in bfloat16: found bfloat16",
            fix="leave out --precision, or give --engine torch",
        )
    if engine == "onnx" and wanted == "bfloat16":
        raise UsageError(
            "expected float32 for the engine onnx, which has no other: found bfloat16",
            fix="leave out --precision",
        )


# -- graphs ----------------------------------------------------------------------------------------


def graph_forward(engine: Engine, file: Path, precision: Precision) -> Forward:
    """A graph in a file, ONNX or, for OpenVINO only, its own format, made ready to run."""
    if engine == "openvino":
        return compiled_by_openvino(openvino_core().read_model(file), precision)
    return session_of(str(file))


@functools.cache
def openvino_core() -> Any:
    """OpenVINO, once for the whole process.

    Each `Core` gives the main thread a stack for signals, and its end the one before, which another may have freed: the next
    signal, a Ctrl-C in a training, would then be a segmentation fault.
    """
    with without_telemetry():
        import openvino

    return openvino.Core()


def openvino_has_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16 itself."""
    found: list[str] = openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "BF16" in found


def compiled_by_openvino(graph: Any, precision: Precision) -> Forward:
    """Compiled anew for each image size, in less than 0.1 s; slices go one by one, which is as fast as in batches."""
    core, hint = openvino_core(), {"float32": "f32", "bfloat16": "bf16"}[precision]
    compiled: dict[tuple[int, ...], Any] = {}

    def forward(images: FloatArray) -> FloatArray:
        shape = images.shape[1:]
        if shape not in compiled:
            graph.reshape([1, *shape])
            compiled.clear()  # the images of a call have one size, and rarely another next time
            compiled[shape] = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": hint})
        return np.concatenate([compiled[shape](image[None])[0] for image in images])

    return forward


def session_of(graph: str | bytes) -> Forward:
    """ONNX Runtime on a graph, a file's path or its bytes: as many images at a time as there are cores, a core each.

    That gives the same numbers as all cores for one image after the other, and takes four fifths of the time. Only a single
    image is worked on by more: by half of the cores, as most come in pairs (`Card.mirror`).
    """
    with without_telemetry():
        import onnxruntime

    onnxruntime.disable_telemetry_events()  # if the user's program has imported it before

    @functools.cache
    def session(cores: int) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = cores
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    workers = ThreadPoolExecutor(threads())
    name = session(1).get_inputs()[0].name

    def forward(images: FloatArray) -> FloatArray:
        run = session(max(1, threads() // max(2, len(images)))).run
        results = workers.map(lambda image: run(None, {name: image[None]})[0], images)
        return np.concatenate([*results])

    return forward

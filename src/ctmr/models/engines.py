"""Run a generator on whole images, by PyTorch, OpenVINO or ONNX Runtime: padding, device, layout and precision behind one call."""

import functools
import importlib.util
import io
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ctmr.cyclegan.networks import Generator
from ctmr.errors import ResourceError, UsageError
from ctmr.system.contained import without_telemetry
from ctmr.system.memory import free_bytes, is_want_of_memory
from ctmr.system.privacy import quiet
from ctmr.types import FloatArray

Precision = Literal["float32", "bfloat16"]
Forward = Callable[[FloatArray], FloatArray]
"""A generator at work: (N, C, h, w) in [-1, 1] to the same, h and w as it needs them."""


def run_generator(generator: Generator, image: FloatArray) -> FloatArray:
    """Translate an image whole, in float32 on the generator's device: no tiles, so no seams.

    Args:
        generator: Maps `(B, C, H, W)` in [-1, 1] to the same.
        image: (H, W, C) in [-1, 1], of any size; it is mirrored at its border up to a shape that fits.

    Returns:
        (H, W, C) in [-1, 1].
    """
    forward = torch_forward(generator, "float32")
    result: FloatArray = run_batch(forward, generator, image[None])[0]
    return result


def run_batch(forward: Forward, generator: Generator, images: FloatArray) -> FloatArray:
    """Translate images (N, H, W, C) in [-1, 1] of one size together by a generator made ready; see `run_generator`.

    Where memory does not suffice, half of them at a time, down to one.

    Raises:
        ResourceError: If it does not suffice for one.
    """
    height, width = images.shape[1:3]
    around = [_padding(side, generator.multiple, generator.smallest) for side in (height, width)]
    padded = np.pad(images, ((0, 0), *around, (0, 0)), mode="symmetric").transpose(0, 3, 1, 2)
    array = _in_parts(forward, np.ascontiguousarray(padded)).transpose(0, 2, 3, 1)  # (N, H, W, C)
    (top, _), (left, _) = around
    return array[:, top : top + height, left : left + width]


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


def torch_forward(generator: Generator, precision: Precision) -> Forward:
    """A generator run by PyTorch where its weights are, its multiplications in `precision`."""
    device = next(generator.parameters()).device
    if device.type == "cpu":
        nn.utils.convert_conv2d_weight_memory_format(generator, torch.channels_last)

    def forward(images: FloatArray) -> FloatArray:
        low = precision == "bfloat16"
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=low):
            result: Tensor = generator(torch.from_numpy(images).to(device))
        array: FloatArray = result.float().cpu().numpy()
        return array

    return forward


def choose_precision(wanted: Literal["auto", "float32", "bfloat16"], accelerator: str) -> Precision:
    """The precision wanted; `auto` is bfloat16 where the hardware multiplies it itself, instead of emulating it."""
    if wanted != "auto":
        return wanted
    if accelerator == "cuda":
        fast = bool(torch.cuda.is_bf16_supported(including_emulation=False))
    else:
        found = torch.cpu.get_capabilities()
        fast = bool(found.get("avx512_bf16") or found.get("amx_bf16") or found.get("bf16"))
    return "bfloat16" if fast else "float32"


def _padding(side: int, multiple: int, smallest: int) -> tuple[int, int]:
    """Pixels before and after, so that the side is a multiple and not too small."""
    wanted = max(smallest, -(-side // multiple) * multiple)
    return (wanted - side) // 2, wanted - side - (wanted - side) // 2


Engine = Literal["torch", "openvino", "onnx"]
NEEDS: Mapping[Engine, tuple[str, ...]] = {
    "torch": (),
    "openvino": ("openvino",),
    "onnx": ("onnx", "onnxruntime"),
}


def best_engine() -> Engine:
    """The fastest engine there is: on a CPU OpenVINO if it is installed, else PyTorch (docs/performance.md)."""
    return "torch" if torch.cuda.is_available() or _missing("openvino") else "openvino"


def require_engine(engine: Engine, precision: Literal["auto", "float32", "bfloat16"]) -> None:
    """Refuse an engine that is not installed, or cannot multiply in that precision.

    Raises:
        UsageError: Naming what to install, or what to leave out.
    """
    if missing := _missing(engine):
        raise UsageError(
            f"the engine {engine} needs {' and '.join(missing)}: not installed",
            fix=f"pip install 'ctmr[{engine}]', or leave out --engine",
        )
    if engine == "openvino" and precision == "bfloat16" != choose_precision("auto", "cpu"):
        raise UsageError(
            "expected float32, as this processor does not multiply in bfloat16: found bfloat16",
            fix="leave out --precision, or give --engine torch",
        )
    if engine == "onnx" and precision == "bfloat16":
        raise UsageError(
            "expected float32 for the engine onnx, which has no other: found bfloat16",
            fix="leave out --precision",
        )


def forward_by(
    engine: Engine, generator: Generator, channels: int, precision: Precision
) -> Forward:
    """A generator made ready to run in an engine that is installed; ONNX Runtime multiplies in float32 only."""
    if engine == "openvino":
        return _openvino_forward(generator, channels, precision)
    if engine == "onnx":
        return _onnx_forward(generator, channels)
    return torch_forward(generator, precision)


def _missing(engine: Engine) -> list[str]:
    return [name for name in NEEDS[engine] if importlib.util.find_spec(name) is None]


def _example(generator: Generator, channels: int) -> Tensor:
    """A small image to trace a generator with; the trace fits images of any size."""
    side = max(64, generator.smallest)
    return torch.zeros(1, channels, side, side, device=next(generator.parameters()).device)


@functools.cache
def _core() -> Any:
    """OpenVINO, once for the whole process.

    Each `Core` gives the main thread a stack for signals, and its end the one before, which another may have freed: the next
    signal, a Ctrl-C in a training, would then be a segmentation fault.
    """
    with without_telemetry():
        import openvino

    return openvino.Core()


def _openvino_forward(generator: Generator, channels: int, precision: Precision) -> Forward:
    """Compiled anew for each image size, in less than 0.1 s; slices go one by one, which is as fast as in batches.

    The frontend is called by itself: `openvino.convert_model` would report each use to its makers.
    """
    with without_telemetry():
        from openvino.frontend import FrontEndManager
        from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with quiet(), torch.inference_mode():
        # `torch.jit.trace` is to go, and says so; its successor takes seconds.
        example = _example(generator, channels)
        traced: Any = torch.jit.trace(generator, example, check_trace=False)  # type: ignore[no-untyped-call]
        frontend = FrontEndManager().load_by_framework("pytorch")
        decoder = TorchScriptPythonDecoder(traced)  # has to live as long as the conversion
        graph = frontend.convert(frontend.load(decoder))
    core, hint = _core(), {"float32": "f32", "bfloat16": "bf16"}[precision]
    compiled: dict[tuple[int, ...], Any] = {}

    def forward(images: FloatArray) -> FloatArray:
        shape = images.shape[1:]
        if shape not in compiled:
            graph.reshape([1, *shape])
            compiled.clear()  # the images of a call have one size, and rarely another next time
            compiled[shape] = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": hint})
        return np.concatenate([compiled[shape](image[None])[0] for image in images])

    return forward


def _onnx_forward(generator: Generator, channels: int) -> Forward:
    with without_telemetry():
        import onnxruntime

    onnxruntime.disable_telemetry_events()  # if the user's program has imported it before
    exported: Any = io.BytesIO()
    sides = {0: "n", 2: "h", 3: "w"}
    with quiet():
        torch.onnx.export(
            generator,
            (_example(generator, channels),),
            exported,
            dynamo=False,  # the new exporter needs another package
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": sides, "y": sides},
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        exported.getvalue(), options, providers=["CPUExecutionProvider"]
    )

    def forward(images: FloatArray) -> FloatArray:
        result: FloatArray = session.run(None, {"x": images})[0]
        return result

    return forward

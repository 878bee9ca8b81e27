"""Engines beside PyTorch for a CPU: a generator handed to OpenVINO or to ONNX Runtime, which are optional."""

import functools
import importlib.util
import io
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ctmr.contained import without_telemetry
from ctmr.engine import Forward, Precision, choose_precision, torch_forward
from ctmr.errors import UsageError
from ctmr.intensity import FloatArray
from ctmr.networks import Generator
from ctmr.quiet import quiet

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

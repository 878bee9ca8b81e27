"""Run a generator that PyTorch holds: by PyTorch itself, or handed to OpenVINO or ONNX Runtime as a graph."""

import io
from typing import Any

import torch
from torch import Tensor, nn

from ctmr.cyclegan.networks import Generator
from ctmr.models.engines import (
    Engine,
    Forward,
    Network,
    Precision,
    WantedPrecision,
    compiled_by_openvino,
    run_batch,
    session_of,
)
from ctmr.system.contained import without_telemetry
from ctmr.system.privacy import quiet
from ctmr.types import FloatArray

INPUT, OUTPUT = "source", "translation"
AXES = {0: "batch", 2: "height", 3: "width"}


def run_generator(generator: Generator, image: FloatArray) -> FloatArray:
    """Translate an image (H, W, C) in [-1, 1] in float32 on the generator's device; see `run_batch`."""
    result: FloatArray = run_batch(network_by("torch", generator, 1, "float32"), image[None])[0]
    return result


def network_by(
    engine: Engine, generator: Generator, channels: int, precision: Precision
) -> Network:
    """A generator made ready to run in an engine that is installed; ONNX Runtime multiplies in float32 only."""
    if engine == "openvino":
        forward = _openvino_forward(generator, channels, precision)
    elif engine == "onnx":
        forward = session_of(onnx_graph(generator, channels))
    else:
        forward = _torch_forward(generator, precision)
    return Network(forward, generator.multiple, generator.smallest)


def _torch_forward(generator: Generator, precision: Precision) -> Forward:
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


def choose_precision(wanted: WantedPrecision, accelerator: str) -> Precision:
    """The precision wanted; `auto` is bfloat16 where the hardware multiplies it itself, instead of emulating it."""
    if wanted != "auto":
        return wanted
    if accelerator == "cuda":
        fast = bool(torch.cuda.is_bf16_supported(including_emulation=False))
    else:
        found = torch.cpu.get_capabilities()
        fast = bool(found.get("avx512_bf16") or found.get("amx_bf16") or found.get("bf16"))
    return "bfloat16" if fast else "float32"


def _example(generator: Generator, channels: int) -> Tensor:
    """A small image to trace a generator with; the trace fits images of any size."""
    side = max(64, generator.smallest)
    return torch.zeros(1, channels, side, side, device=next(generator.parameters()).device)


def onnx_graph(generator: Generator, channels: int) -> bytes:
    """A generator as an ONNX graph with its weights by their names, in float32; images of any number and fitting size."""
    exported: Any = io.BytesIO()
    with quiet():
        torch.onnx.export(
            generator,
            (_example(generator, channels),),
            exported,
            dynamo=False,  # the new exporter needs another package, and ten times as long
            do_constant_folding=False,  # which would rename weights
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: AXES, OUTPUT: AXES},
        )
    graph: bytes = exported.getvalue()
    return graph


def _openvino_forward(generator: Generator, channels: int, precision: Precision) -> Forward:
    """The frontend is called by itself: `openvino.convert_model` would report each use to its makers."""
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
    return compiled_by_openvino(graph, precision)

"""Write a model as graphs that run without PyTorch: ONNX, whose weights stay where they are, or OpenVINO's own format."""

import json
from collections.abc import Mapping
from pathlib import Path

import onnx

from ctmr.cyclegan.networks import Generator
from ctmr.models.engines import openvino_core, require_engine
from ctmr.models.exported import Format, graph_files
from ctmr.models.folder import read_model, weights_of, write_files
from ctmr.models.lookup import model_folder
from ctmr.models.readme import exported_readme
from ctmr.models.torch_engine import onnx_graph
from ctmr.notice import NOTICE
from ctmr.system.contained import without_telemetry
from ctmr.system.files import draft_folder, require_empty
from ctmr.types import DIRECTIONS, Direction


def export_model(
    model: Path | str, out: Path, form: Format, *, licence: str | None = None
) -> list[Path]:
    """Write both directions of a model as graphs, float32 in and out, with `model.json` and `README.md`.

    A graph maps (batch, channels, height, width) in [-1, 1] to the same; `ctmr help export` says what comes before and after.

    Args:
        model: A run, a model folder, or the name of a model that comes with ctmr.
        out: New folder.
        form: `onnx`, or `openvino`, which needs OpenVINO here and there.
        licence: Under which the weights are handed on, an SPDX identifier; None leaves what the model says.

    Returns:
        The graphs.

    Raises:
        CheckpointError: If the model cannot be read.
        OutputError: If `out` is there and not empty, or cannot be written.
        UsageError: If OpenVINO is wanted and not installed.
    """
    if form == "openvino":
        require_engine("openvino", "auto")
    found = read_model(Path(model))
    require_empty(out)
    about = found.card.model_dump(mode="json", exclude={"format", "sha256", "files"})
    if licence is not None:
        about["provenance"]["licence"] = licence
    channels = found.card.data.channels
    files = (
        onnx_files(found.generators, channels)
        if form == "onnx"
        else _openvino_files(found.generators, channels, out)
    )
    page = exported_readme(model_folder(Path(model)), found.card, licence)
    write_files(out, files, about, page)
    return [out / graph_files(direction, form)[0] for direction in DIRECTIONS]


def onnx_files(
    generators: Mapping[Direction, Generator], channels: int, *, half: bool = False
) -> dict[str, bytes]:
    """Graph and weights of both generators, by name; `half` stores the weights in float16."""
    files: dict[str, bytes] = {}
    for direction, generator in generators.items():
        graph, weights = graph_files(direction, "onnx")
        files[weights] = weights_of(generator, half=half)
        files[graph] = linked(onnx_graph(generator, channels), files[weights], weights)
    return files


def _openvino_files(
    generators: Mapping[Direction, Generator], channels: int, out: Path
) -> dict[str, bytes]:
    """The same in OpenVINO's format, which it writes to files only: beside `out`, for a while."""
    with without_telemetry():
        import openvino
    files: dict[str, bytes] = {}
    for direction, generator in generators.items():
        graph = openvino_core().read_model(onnx_graph(generator, channels))
        with draft_folder(out) as place:
            paths = [place / name for name in graph_files(direction, "openvino")]
            openvino.serialize(graph, *paths)
            files |= {path.name: path.read_bytes() for path in paths}
    return files


def linked(graph: bytes, weights: bytes, name: str) -> bytes:
    """An ONNX graph that takes its weights from a safetensors file beside it, by their places there.

    Args:
        graph: With weights in it.
        weights: The safetensors file, which has every weight by the name that the graph gives it, in float32 or float16.
        name: Of that file.
    """
    start = 8 + int.from_bytes(weights[:8], "little")
    header = json.loads(weights[8:start])
    header.pop("__metadata__", None)
    half = {each["dtype"] for each in header.values()} == {"F16"}
    places = {
        key: (start + first, start + last)
        for key, (first, last) in ((key, each["data_offsets"]) for key, each in header.items())
    }
    kept: set[bytes] = set()  # of weights that are equal the exporter takes one
    model = onnx.load_from_string(graph)
    for tensor in list(model.graph.initializer):
        if tensor.name not in places:
            continue
        first, last = places.pop(tensor.name)
        kept.add(weights[first:last])
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", name), ("offset", first), ("length", last - first)):
            tensor.external_data.add(key=key, value=str(value))
        if half:
            tensor.data_type = onnx.TensorProto.FLOAT16
            wide, tensor.name = tensor.name, f"{tensor.name}.half"
            model.graph.node.insert(
                0,
                onnx.helper.make_node("Cast", [tensor.name], [wide], to=onnx.TensorProto.FLOAT),
            )
    if not kept.issuperset(weights[slice(*span)] for span in places.values()):
        raise RuntimeError(f"the exporter renamed weights: {sorted(places)}")
    onnx.helper.set_model_props(model, {"notice": NOTICE})
    linked_graph: bytes = model.SerializeToString()
    return linked_graph

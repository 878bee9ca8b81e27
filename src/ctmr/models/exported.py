"""Models as graphs, which run without PyTorch, and the choice between graph and PyTorch for a model folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ctmr.config import GENERATOR_SIDES
from ctmr.errors import UsageError
from ctmr.models.card import CARD_NAME, Card, check_hash, read_card, read_file
from ctmr.models.engines import (
    Engine,
    Network,
    Precision,
    RunnableModel,
    WantedPrecision,
    best_engine,
    graph_forward,
    has_gpu,
    missing,
    openvino_has_bfloat16,
    require_engine,
)
from ctmr.models.lookup import GENERATOR_FILES, model_folder
from ctmr.types import Direction

Format = Literal["onnx", "openvino"]
ENDINGS: dict[Format, tuple[str, ...]] = {
    "onnx": (".onnx", ".safetensors"),
    "openvino": (".xml", ".bin"),
}
"""Of the files of a generator: the graph, and the weights that it refers to."""
MAX_GRAPH_BYTES = 2**31


@dataclass(frozen=True, eq=False)
class ExportedModel:
    """A model whose generators are graphs in files.

    Attributes:
        card: `model.json`.
        folder: Where the files are.
        format: Of the graphs.
    """

    card: Card
    folder: Path
    format: Format

    def network(self, direction: Direction, engine: Engine, precision: Precision) -> Network:
        """One of the generators, made ready by an engine that reads the format."""
        graph = self.folder / graph_files(direction, self.format)[0]
        multiple, smallest = GENERATOR_SIDES[self.card.network.generator]
        return Network(graph_forward(engine, graph, precision), multiple, smallest)


def graph_files(direction: Direction, form: Format) -> tuple[str, ...]:
    """Names of the files of a generator in a format: the graph, then its weights."""
    stem = GENERATOR_FILES[direction].removesuffix(".safetensors")
    return tuple(stem + ending for ending in ENDINGS[form])


def exported_format(card: Card) -> Format | None:
    """The format of the graphs that a model folder has; None if it has none."""
    for form in ENDINGS:
        if all(graph_files(direction, form)[0] in card.files for direction in GENERATOR_FILES):
            return form
    return None


def open_model(
    path: Path, engine: Engine | None, wanted: WantedPrecision
) -> tuple[RunnableModel, Engine, Precision]:
    """The model meant by MODEL, and what runs it in which precision: what is asked for, else the best there is.

    Every file that is used is checked against its hash before it is parsed.

    Raises:
        CheckpointError: If there is no model, or it is damaged or of another version.
        UsageError: If the engine is not installed, does not know the precision, or cannot run this model.
    """
    folder = model_folder(path)
    card = read_card(folder / CARD_NAME)
    form = exported_format(card)
    if form == "openvino" and engine not in (None, "openvino"):
        raise UsageError(
            f"the model is a graph of OpenVINO: the engine {engine} cannot run it",
            fix="leave out --engine, or export it with --format onnx",
        )
    if form == "openvino" and missing("openvino"):
        raise UsageError(
            "the model is a graph of OpenVINO, which is not installed",
            fix="pip install 'ctmr[openvino]', or export it with --format onnx",
        )
    chosen = engine or ("openvino" if form == "openvino" else best_engine(exported=form == "onnx"))
    if form is None and missing("torch"):
        raise UsageError(
            "the model has weights only, which PyTorch runs: not installed",
            fix="pip install 'ctmr[train]', or ctmr export MODEL OUT --format onnx where it is",
        )
    require_engine(chosen, wanted)
    if form is None or chosen == "torch":
        from ctmr.models.folder import read_model

        return read_model(path), chosen, _precision(chosen, wanted)
    for direction in GENERATOR_FILES:
        for name in graph_files(direction, form):
            content = read_file(folder / name, MAX_GRAPH_BYTES)
            check_hash(folder / name, card.files.get(name, ""), content)
    return ExportedModel(card, folder, form), chosen, _precision(chosen, wanted)


def _precision(engine: Engine, wanted: WantedPrecision) -> Precision:
    """The precision wanted; `auto` is bfloat16 where the hardware multiplies it itself, instead of emulating it."""
    if engine == "onnx":
        return "float32"
    if wanted != "auto":
        return wanted
    if engine == "openvino":
        return "bfloat16" if openvino_has_bfloat16() else "float32"
    from ctmr.models.torch_engine import choose_precision

    return choose_precision(wanted, "cuda" if has_gpu() else "cpu")

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image as Pillow

from ctmr import read_scan
from ctmr.cyclegan.networks import build_generator, initialise
from ctmr.errors import CheckpointError, OutputError, UsageError
from ctmr.models import exported
from ctmr.models.engines import graph_forward
from ctmr.models.export import export_model, linked
from ctmr.models.exported import ENDINGS, graph_files
from ctmr.models.folder import read_model, weights_of
from ctmr.models.torch_engine import onnx_graph
from ctmr.system.rng import torch_stream
from ctmr.translation.translator import load_model
from ctmr.types import DIRECTIONS

SIZES = [(64, 64), (96, 64), (160, 96), (64, 224)]
KINDS = [
    ("resnet", "nearest", False, 1),
    ("resnet", "deconvolution", False, 3),
    ("resnet34", "deconvolution", False, 3),
    ("resnet34", "nearest", True, 1),
    ("resnet50", "nearest", False, 1),
    ("unet", "nearest", True, 1),
]


def generator(name, upsample, skips, channels):
    made = build_generator(
        name, channels=channels, filters=8, blocks=2, upsample=upsample, skips=skips
    ).eval()
    initialise(made, "uniform", torch_stream(0, name))
    return made.requires_grad_(False)


def write_graph(folder, network, channels, *, half=False):
    weights = weights_of(network, half=half)
    graph = linked(onnx_graph(network, channels), weights, "net.safetensors")
    (folder / "net.safetensors").write_bytes(weights)
    (folder / "net.onnx").write_bytes(graph)
    return folder / "net.onnx"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind)))
def test_graph_is_about_as_near_to_float64_as_torch_is(kind, tmp_path):
    network, channels = generator(*kind), kind[3]
    graph = write_graph(tmp_path, network, channels)
    ready = {engine: graph_forward(engine, graph, "float32") for engine in ("onnx", "openvino")}
    for size in SIZES:
        image = np.random.default_rng(size).uniform(-1, 1, (2, channels, *size)).astype(np.float32)
        x = torch.from_numpy(image)
        exact = network.double()(x.double()).numpy()
        off = distance(network.float()(x).numpy(), exact)
        for engine, forward in ready.items():
            assert distance(forward(image), exact) < 2 * off + 1e-6, (engine, size)


def distance(found, exact):
    """Root mean square: the largest of rounding errors is a matter of chance."""
    return float(np.sqrt(np.square(found - exact).mean()))


def test_graph_holds_no_weights_and_passes_the_checker(tmp_path):
    graph = write_graph(tmp_path, generator(*KINDS[-1]), 1)
    assert graph.stat().st_size < 60_000 < (tmp_path / "net.safetensors").stat().st_size
    onnx.checker.check_model(str(graph), full_check=True)
    (taken,), (given,) = (onnx.load(graph).graph.input, onnx.load(graph).graph.output)
    for value in (taken, given):
        sides = [side.dim_param for side in value.type.tensor_type.shape.dim]
        assert (sides[0], sides[2:]) == ("batch", ["height", "width"])


def test_weights_in_float16_are_those_that_torch_reads(tmp_path):
    network = generator(*KINDS[-1])
    graph = write_graph(tmp_path, network, 1, half=True)
    rounded = generator(*KINDS[-1])
    rounded.load_state_dict({k: v.half().float() for k, v in network.state_dict().items()})
    image = np.random.default_rng(0).uniform(-1, 1, (1, 1, 64, 96)).astype(np.float32)
    expected = rounded(torch.from_numpy(image)).numpy()
    for engine in ("onnx", "openvino"):
        assert np.abs(graph_forward(engine, graph, "float32")(image) - expected).max() < 1e-4


@pytest.fixture(scope="module")
def exports(tiny_run, tmp_path_factory):
    """The tiny run in both formats, by name of the format."""
    place = tmp_path_factory.mktemp("exports")
    for form in ENDINGS:
        export_model(tiny_run, place / form, form, licence="CC0-1.0")
    return {form: place / form for form in ENDINGS}


def test_every_engine_gives_what_the_run_gives(exports, tiny_run, tiny_pairs):
    picture = next((tiny_pairs / "ct").glob("*.png"))
    scan = read_scan(picture, modality="ct")
    run = load_model(tiny_run, engine="torch", precision="float32")
    expected = run.translate(scan, to="mr").array.astype(int)
    for form, engine in (("onnx", "onnx"), ("onnx", "openvino"), ("openvino", None)):
        model = load_model(exports[form], engine=engine, precision="float32")
        found = model.translate(scan, to="mr").array.astype(int)
        assert np.abs(found - expected).max() <= 1, (form, engine)  # a level of 8 bits


def test_export_is_read_by_torch_too_with_the_same_weights(exports, tiny_run):
    one, two = read_model(exports["onnx"]), read_model(tiny_run)
    for direction in DIRECTIONS:
        given = two.generators[direction].state_dict()
        for key, value in one.generators[direction].state_dict().items():
            assert torch.equal(value, given[key])
    assert one.discriminators == {}
    assert one.card.provenance["licence"] == "CC0-1.0"
    same = {"format", "sha256", "files", "provenance"}
    assert one.card.model_dump(exclude=same) == two.card.model_dump(exclude=same)


@pytest.mark.parametrize("form", ENDINGS)
@pytest.mark.parametrize("place", [0, 1])
def test_bit_flipped_in_any_file_is_found_before_it_is_parsed(
    form, place, exports, tmp_path, monkeypatch
):
    folder = tmp_path / "model"
    shutil.copytree(exports[form], folder)
    file = folder / graph_files("ct-to-mr", form)[place]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    monkeypatch.setattr(exported, "graph_forward", lambda *_: pytest.fail("parsed"))
    with pytest.raises(CheckpointError, match="damaged: expected sha256") as caught:
        load_model(folder, engine={"onnx": "onnx", "openvino": "openvino"}[form])
    assert (caught.value.exit_code, caught.value.file) == (5, str(file))


def test_graph_of_openvino_is_refused_to_other_engines(exports):
    with pytest.raises(UsageError, match=r"a graph of OpenVINO: the engine onnx.*--format onnx"):
        load_model(exports["openvino"], engine="onnx")


def test_export_into_a_folder_with_a_file_is_refused(tiny_run, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError) as caught:
        export_model(tiny_run, tmp_path, "onnx")
    assert caught.value.exit_code == 4
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_weights_that_the_exporter_renames_are_an_error():
    network = generator(*KINDS[0])
    content = weights_of(torch.nn.ModuleDict({"other": network}))
    with pytest.raises(RuntimeError, match="renamed weights"):
        linked(onnx_graph(network, 1), content, "net.safetensors")


# What a process, and each that it starts, runs first: it has none of what only training needs, as after `pip install ctmr`.
WITHOUT_TORCH = """
import importlib.util, sys
GONE = {"torch", "lightning_fabric", "onnx", "openvino", "matplotlib", "skimage"}
class Gone:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in GONE:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.split(".")[0])
sys.meta_path.insert(0, Gone())
there = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name in GONE else there(name, *more)
"""
PROGRAM = "from ctmr.cli import main\nmain()\n"


@pytest.fixture(scope="module")
def run_without_torch(tmp_path_factory):
    place = tmp_path_factory.mktemp("site")
    (place / "sitecustomize.py").write_text(WITHOUT_TORCH)

    def run(script, *arguments):
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", script, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=120,
            env=os.environ | {"PYTHONPATH": str(place)},
        )

    return run


def test_export_translates_without_torch_from_a_picture_to_its_sidecar(
    exports, tiny_pairs, tiny_run, tmp_path, run_without_torch
):
    picture = next((tiny_pairs / "ct").glob("*.png"))
    out = tmp_path / "out.png"
    call = ("translate", picture, out, "--to", "mr", "--model", exports["onnx"])
    done = run_without_torch(PROGRAM, *call)
    assert done.returncode == 0, done.stderr
    about = json.loads(out.with_suffix(".json").read_text())
    assert (about["engine"], about["precision"]) == ("onnx", "float32")
    assert (tmp_path / "out.preview.png").is_file()
    run = load_model(tiny_run, engine="torch", precision="float32")
    expected = run.translate(read_scan(picture, modality="ct"), to="mr")
    with Pillow.open(out) as made:
        assert np.abs(np.asarray(made, int) - expected.array.astype(int)).max() <= 1


def test_bundled_model_translates_without_torch(run_without_torch):
    script = """
import sys
from sitecustomize import GONE
from ctmr import load_model, synthesise_head
from ctmr.imaging.volume import Volume
head = synthesise_head(0, shape=(64, 64, 3))
scan = Volume(head.mr, head.affine, "mr")
made = load_model().translation(scan, "ct", quality="none", anyway=True).scan
assert made.array.shape == (64, 64, 3)
print(sorted(GONE & set(sys.modules)))
"""
    done = run_without_torch(script)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


@pytest.mark.parametrize(
    "call",
    [
        ("train", "DATA", "--out", "RUN"),
        ("evaluate", "head", "DATA"),
        ("export", "head", "OUT", "--format", "onnx"),
        ("demo", "--out", "RUN"),
        ("import-weights", "A.pth", "B.pth", "OUT", "--ct-is", "A"),
    ],
    ids=lambda call: call[0],
)
def test_what_needs_torch_says_in_one_line_what_to_install(
    call, tiny_data, tmp_path, run_without_torch
):
    words = {"DATA": tiny_data, "RUN": tmp_path / "run", "OUT": tmp_path / "out"}
    done = run_without_torch(PROGRAM, *(words.get(word, word) for word in call))
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error[E200]: this command needs ")
    assert "pip install 'ctmr[train]'" in line
    assert list(tmp_path.iterdir()) == []


def test_run_without_graphs_says_without_torch_what_to_do(
    tiny_run, tiny_pairs, tmp_path, run_without_torch
):
    picture = next((tiny_pairs / "ct").glob("*.png"))
    call = ("translate", picture, tmp_path / "out.png", "--to", "mr", "--model", tiny_run)
    done = run_without_torch(PROGRAM, *call)
    assert done.returncode == 2
    assert "pip install 'ctmr[train]', or ctmr export MODEL OUT --format onnx" in done.stderr


def test_public_name_that_needs_torch_says_what_to_install(run_without_torch):
    done = run_without_torch("from ctmr import train")
    assert done.returncode == 1
    assert "ctmr.train needs torch: pip install 'ctmr[train]'" in done.stderr


@pytest.mark.parametrize(
    "call",
    [
        ("models",),
        ("--version",),
        ("--help",),
        ("synth", "OUT", "--subjects", "1", "--size", "32"),
        ("prepare", "DATA", "OUT", "--preset", "small", "--set", "data.size=32"),
        ("audit", "DATA", "--out", "OUT.json"),
    ],
    ids=lambda call: call[0],
)
def test_other_commands_need_no_torch(call, tiny_data, tmp_path, run_without_torch):
    words = {"DATA": tiny_data, "OUT": tmp_path / "out", "OUT.json": tmp_path / "out.json"}
    done = run_without_torch(PROGRAM, *(words.get(word, word) for word in call))
    found = call[0] == "audit" and done.returncode == 3  # what is wrong with the data
    assert done.returncode == 0 or found, done.stderr
    assert "pip install" not in done.stderr


def test_graph_of_openvino_says_what_to_install_where_it_is_missing(
    exports, tiny_pairs, tmp_path, run_without_torch
):
    picture = next((tiny_pairs / "ct").glob("*.png"))
    model = exports["openvino"]
    call = ("translate", picture, tmp_path / "out.png", "--to", "mr", "--model", model)
    done = run_without_torch(PROGRAM, *call)
    assert done.returncode == 2
    assert "pip install 'ctmr[openvino]', or export it with --format onnx" in done.stderr


def test_card_of_an_export_needs_no_path_of_this_machine(exports, tiny_run):
    text = (exports["onnx"] / "model.json").read_text()
    assert str(Path(tiny_run).parent) not in text
    assert dataclasses.asdict(read_model(exports["onnx"]))["discriminators"] == {}

"""Seconds to translate a head, whole processes with reading and writing, engines side by side, and the reference beside them.

    python benchmarks/translate_volume.py --work FOLDER [--preset default] [--slices 180] [--rounds 5] [--json]
    python benchmarks/translate_volume.py --work FOLDER --reference PATH --reference-python PYTHON
    python benchmarks/translate_volume.py --work FOLDER --bundled [--reference PATH --reference-python PYTHON]

One synthetic head of 256x256 pixels a slice, CT to MR, NIfTI in and out, by a model that had one step of training: the time
does not depend on its weights. The reference's test.py translates the same slices as PNG files by its 9 blocks. FOLDER
keeps head and model. The first call of a new installation compiles Python's modules too: it is a round that is not counted.
"""

import argparse
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image as Pillow

from ctmr.config import load_config, with_steps
from ctmr.cyclegan.cyclegan import generator_of
from ctmr.errors import UsageError
from ctmr.imaging.volume import Volume, axial_slices
from ctmr.io.nifti import read_nifti, write_nifti
from ctmr.models.engines import NEEDS, Engine, missing, require_engine
from ctmr.models.torch_engine import choose_precision
from ctmr.synthetic.data_folder import write_heads
from ctmr.synthetic.head import synthesise_head
from ctmr.training.train import train
from ctmr.translation.translator import load_model
from roofline import NATIVE, convolution_peak, flops
from turns import Command, as_json, in_turn, print_table

REFERENCE = "reference, 9 blocks, test.py"
# A network that gives back what it gets.
COPIES = "import ctmr.models.engines as e; e.session_of = lambda _: lambda images: images.copy();"
COPIES += " from ctmr.cli import main; main()"
NETWORK = ("--netG", "resnet_9blocks", "--input_nc", "1", "--output_nc", "1", "--no_dropout")


def main() -> None:
    """Translate the head by each engine in turn and print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="scratch folder, kept")
    parser.add_argument("--preset", default="default")
    parser.add_argument(
        "--model", type=Path, help="a run of your own, instead of one of the preset"
    )
    parser.add_argument("--size", type=int, default=256, help="pixels of a side of a slice")
    parser.add_argument("--slices", type=int, default=180)
    parser.add_argument("--engines", default=",".join(NEEDS), help="those installed of these")
    parser.add_argument("--rounds", type=int, default=5, help="after one that is not counted")
    parser.add_argument("--reference", type=Path, help="clone of the reference")
    parser.add_argument("--reference-python", type=Path)
    parser.add_argument(
        "--bundled",
        action="store_true",
        help="only the model in the package, with its network and with one that copies",
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if (options.reference is None) != (options.reference_python is None):
        parser.error("--reference and --reference-python belong together")
    if options.bundled:
        ours = bundled_commands(options)
        if options.rounds > 1:
            in_turn(ours, 1)
        found = in_turn(reference_line(options) | ours, options.rounds)
        print_table("whole process", found, next(iter(found)), peaks={})
        return
    head, run = write_head(options), train_once(options)
    programs = reference_line(options)
    output = options.work / "out.nii.gz"
    command = (
        Path(sys.executable).with_name("ctmr"),
        "translate",
        head,
        output,
        "--model",
        run,
        "--to",
        "mr",
    )
    precisions: dict[str, str] = {}
    for engine in (name for name in NEEDS if name in options.engines.split(",")):
        for precision in NATIVE:
            try:
                require_engine(engine, precision)
            except UsageError:
                continue
            name = f"{options.preset}, {engine}, {precision}"
            programs[name] = (*command, "--engine", engine, "--precision", precision)
            precisions[name] = precision
    if options.rounds > 1:
        in_turn({name: programs[name] for name in precisions}, 1)
    found = in_turn(programs, options.rounds)
    arithmetic = gflop(options, run)
    for name, kind in precisions.items():
        found[name].printed = {"gflop": arithmetic, "precision": kind}
    peaks: dict[str, float] = {name: convolution_peak(name) for name in NATIVE}
    print(
        f"{options.slices} slices, {options.rounds} rounds, {torch.get_num_threads()} threads;",
        end=" ",
    )
    print(f"{choose_precision('auto', 'cpu')} is what auto takes here", end="\n\n")
    print_table("whole process", found, next(iter(found)), peaks=peaks)
    if options.json:
        print(as_json(found, peaks))


def bundled_commands(options: argparse.Namespace) -> dict[str, Command]:
    """The head by the model in the package: as it is and one slice, by each engine, and all but the network."""
    head = write_head(options)
    volume = read_nifti(head)
    middle = options.slices // 2
    one = replace(volume, array=volume.array[:, :, middle : middle + 1], modality="ct")
    write_nifti(options.work / "slice.nii.gz", one, "synthetic head")
    start: Command = (sys.executable, "-c", "from ctmr.cli import main; main()", "translate")
    copies: Command = (sys.executable, "-c", COPIES, "translate")
    end: Command = (options.work / "out.nii.gz", "--to", "mr", "--anyway", "--engine")
    lines: dict[str, Command] = {}
    engines: tuple[Engine, ...] = ("openvino", "onnx")
    for engine in engines:
        if not missing(engine):
            lines[f"head, {engine}"] = (*start, head, *end, engine)
            lines[f"one slice, {engine}"] = (*start, options.work / "slice.nii.gz", *end, engine)
    return lines | {"all but its network": (*copies, head, *end, "onnx")}


def write_head(options: argparse.Namespace) -> Path:
    """The CT of a head as NIfTI, and its slices as PNG files for the reference."""
    path: Path = options.work / f"head-{options.slices}.nii.gz"
    if not path.exists():
        size = options.size
        mm = 256 / size
        head = synthesise_head(
            5, shape=(size, size, options.slices), spacing_mm=(mm, mm, 180 / options.slices)
        )
        folder = options.work / "slices"
        folder.mkdir(parents=True, exist_ok=True)
        for k, values in enumerate(axial_slices(head.ct)):
            grey = np.clip((values + 1024) / 16, 0, 255).astype(np.uint8)
            Pillow.fromarray(grey).save(folder / f"{k:03}.png")
        write_nifti(path, Volume(head.ct, head.affine, "ct"), "synthetic head")
    return path


def train_once(options: argparse.Namespace) -> Path:
    """A model of the preset that had one step of training on small volumes."""
    run: Path = options.work / f"run-{options.preset}"
    if not (run / "model").exists():
        heads = options.work / "heads"
        if not heads.exists():
            write_heads(heads, subjects=2, size=options.size, image_format="nifti")
            shutil.rmtree(heads / "val")  # an evaluation would take longer than all the rest
        train(with_steps(load_config(options.preset), 1, None), heads, run)
    return run


def gflop(options: argparse.Namespace, run: Path) -> float:
    """Arithmetic of the head's translation, those slices that are translated back to judge it left out."""
    card = load_model(run, engine="torch").model.card
    generator = generator_of(card.network, card.data.channels).eval()
    side = round(256 / card.data.pixel_mm)
    side += -side % generator.multiple
    shape = (1, card.data.channels, side, side)
    slices = int(options.slices)
    return slices * flops(lambda: generator(torch.zeros(shape))) / 1e9


def reference_line(options: argparse.Namespace) -> dict[str, Command]:
    """The reference's own script on the PNG slices, with a generator of random weights; nothing without a clone."""
    if options.reference is None:
        return {}
    name, size = "timing", str(options.size)
    folder = options.work / "reference" / name
    folder.mkdir(parents=True, exist_ok=True)
    code = "import sys; sys.path.insert(0, sys.argv[1]); import torch; from models import networks as n;"
    code += (
        " torch.save(n.define_G(1, 1, 64, 'resnet_9blocks', 'instance').state_dict(), sys.argv[2])"
    )
    in_turn(
        {
            "its weights": (
                options.reference_python,
                "-c",
                code,
                options.reference.resolve(),
                folder / "latest_net_G.pth",
            )
        },
        1,
    )
    script = "import os, runpy, sys; os.chdir(sys.argv[1]); sys.path.insert(0, sys.argv[1]);"
    script += " del sys.argv[1]; runpy.run_path('test.py', run_name='__main__')"
    command = (
        *(options.reference_python, "-c", script, options.reference.resolve(), "--model", "test"),
        *("--name", name, "--checkpoints_dir", (options.work / "reference").resolve(), *NETWORK),
        *("--dataroot", (options.work / "slices").resolve(), "--num_test", "100000"),
        *("--load_size", size, "--crop_size", size),
        *("--results_dir", (options.work / "results").resolve()),
    )
    return {REFERENCE: command}


if __name__ == "__main__":
    main()

"""Whether networks that pytorch-CycleGAN-and-pix2pix has trained give the same here, once they are imported.

    import_parity.py --reference CLONE --reference-python PYTHON

The reference implementation is no part of this project. Clone github.com/junyanz/pytorch-CycleGAN-and-pix2pix (compared
with commit 2a7afba) and give it an environment of its own with torch, torchvision, numpy, pillow, dominate and wandb.

Its train.py trains for a few steps on square 8-bit pictures of synthetic heads, of one channel and of three. `ctmr
import-weights` makes models of the weights, in which `ctmr translate` translates the test pictures; its test.py does so with
`--eval`. Pictures must be within 1 grey level (test.py cuts grey values to whole numbers, ctmr rounds), and the networks
within 1e-9 in float64 and 1e-4 in float32; else the exit status is 1.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image as Pillow

from ctmr.errors import CtmrError, UsageError
from ctmr.models.import_weights import import_weights
from ctmr.synthetic.data_folder import write_heads
from ctmr.training.import_model import import_model
from ctmr.translation.batch import translate_files
from ctmr.translation.translator import load_model
from ctmr.types import Modality

LIMITS = {"float64": 1e-9, "float32": 1e-4, "grey_levels": 1}
SIDE = 64
STEPS = 8
BLOCKS = {"resnet_6blocks": 6, "resnet_9blocks": 9}
WINDOWS = {"ct": (1024.0, 1104.0), "mr": (0.0, 255.0)}  # of stored values; of CT 0 to 80 HU


@dataclass(frozen=True)
class Item:
    """One line of the table; differences are the largest.

    Attributes:
        channels: Of a picture.
        net_g: The reference's name of the generator.
        float64: Of the outputs of both generators in [-1, 1], in float64.
        float32: Likewise, in float32.
        grey_levels: Of pictures, 0 to 255.
        pictures: How many were compared.
    """

    channels: int
    net_g: str
    float64: float
    float32: float
    grey_levels: int
    pictures: int

    def agrees(self) -> bool:
        """Whether all lie within their limits."""
        return all(getattr(self, name) <= limit for name, limit in LIMITS.items())


def write_pictures(heads: Path, folder: Path, channels: int) -> None:
    """8-bit pictures of the heads in the folders of the reference: trainA, trainB, testA, testB."""
    for split in ("train", "test"):
        for modality, letter in (("ct", "A"), ("mr", "B")):
            target = folder / f"{split}{letter}"
            target.mkdir(parents=True)
            low, high = WINDOWS[modality]
            for path in sorted((heads / split / modality).glob("*.png"))[:STEPS]:
                with Pillow.open(path) as stored:
                    values = np.asarray(stored, np.float64)
                grey = np.rint(np.clip((values - low) / (high - low), 0, 1) * 255)
                image = Pillow.fromarray(grey.astype(np.uint8))
                image.convert("L" if channels == 1 else "RGB").save(target / path.name)


def call(python: Path, reference: Path, *words: object) -> None:
    """Run a script of the reference.

    Raises:
        UsageError: If it does not run.
    """
    command = [str(python), *map(str, words)]
    done = subprocess.run(command, cwd=reference, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UsageError(
            f"{Path(str(words[0])).name} failed ({reason})",
            file=reference,
            fix=f"let {python} import torch, torchvision, numpy, PIL, dominate and wandb",
        )


def measure(args: argparse.Namespace, place: Path, channels: int, net_g: str) -> Item:
    """Train, import, and compare one kind of network."""
    python, reference = args.reference_python.absolute(), args.reference.resolve()
    pictures = place / f"pictures{channels}"
    if not pictures.is_dir():
        write_pictures(place / "heads", pictures, channels)
    name = f"{net_g}-{channels}"
    shared = {
        **{"dataroot": pictures, "checkpoints_dir": place, "name": name, "model": "cycle_gan"},
        **{"netG": net_g, "ngf": args.filters, "input_nc": channels, "output_nc": channels},
        **{"num_threads": 0, "crop_size": SIDE},
    }
    train = {"ndf": 8, "load_size": SIDE + 6, "n_epochs": 1, "n_epochs_decay": 0}
    train |= {"save_epoch_freq": 1, "max_dataset_size": STEPS}
    test = {"load_size": SIDE, "num_test": STEPS, "results_dir": place / "results"}
    call(python, reference, "train.py", "--no_html", *options(shared | train))
    call(python, reference, "test.py", "--eval", *options(shared | test))
    files = (place / name / "latest_net_G_A.pth", place / name / "latest_net_G_B.pth")
    model = place / f"model-{name}"
    import_model(files, model, ct_is="A", size=SIDE)
    translator = load_model(model, engine="torch", precision="float32")
    images = place / "results" / name / "test_latest" / "images"
    worst, count = 0, 0
    sides: tuple[tuple[str, Modality, str], ...] = (("A", "mr", "fake_B"), ("B", "ct", "fake_A"))
    for letter, to, result in sides:
        source, target = pictures / f"test{letter}", place / f"ours-{name}-{to}"
        translate_files(translator, source, target, to, quality="none")
        for path in source.iterdir():
            ours = np.asarray(Pillow.open(target / path.name).convert("RGB"), np.int16)
            theirs = np.asarray(Pillow.open(images / f"{path.stem}_{result}.png"), np.int16)
            worst, count = max(worst, int(np.abs(ours - theirs).max())), count + 1
    return Item(channels, net_g, *networks(args, place, files, channels, net_g), worst, count)


def options(values: dict[str, object]) -> list[str]:
    return [f"--{key}={value}" for key, value in values.items()]


def networks(
    args: argparse.Namespace, place: Path, files: tuple[Path, Path], channels: int, net_g: str
) -> tuple[float, float]:
    """The largest differences of both generators in float64 and in float32, on noise."""
    rng = torch.Generator().manual_seed(0)
    x = 2 * torch.rand(1, channels, SIDE, SIDE, generator=rng, dtype=torch.float64) - 1
    np.savez(place / "x.npz", x=x.numpy())
    found = import_weights(files, None, ct_is="A")
    double = single = 0.0
    for file, network in zip(files, found.generators.values(), strict=True):
        driver = Path(__file__).resolve().with_name("reference_networks.py")
        words = (driver, args.reference.resolve(), channels, args.filters, net_g)
        python = args.reference_python.absolute()
        call(python, args.reference, *words, file, place / "x.npz", place / "y.npz")
        theirs = np.load(place / "y.npz")
        with torch.no_grad():
            ours = network(x.float()).numpy()
            single = max(single, float(np.abs(ours - theirs["single"]).max()))
            ours = network.double()(x).numpy()
            double = max(double, float(np.abs(ours - theirs["double"]).max()))
    return double, single


def run(args: argparse.Namespace) -> list[Item]:
    """Each kind of network."""
    if not (args.reference / "models" / "cycle_gan_model.py").is_file():
        raise UsageError(
            "expected a clone of pytorch-CycleGAN-and-pix2pix, found no models/cycle_gan_model.py",
            file=args.reference,
            fix="correct --reference",
        )
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        write_heads(place / "heads", subjects=1, size=SIDE)
        return [measure(args, place, channels, net_g) for channels in (1, 3) for net_g in BLOCKS]


def main() -> int:
    """Print the comparison; 0 if all agree, 1 if not, 2 if they could not be compared."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--reference", type=Path, required=True, help="clone of the reference")
    parser.add_argument("--reference-python", type=Path, required=True, help="its Python")
    parser.add_argument("--filters", type=int, default=64, help="filters of the first layer")
    parser.add_argument("--json", action="store_true", help="print JSON as the last line")
    args = parser.parse_args()
    try:
        items = run(args)
    except CtmrError as error:
        print(f"error[{error.code}]: {error}", file=sys.stderr)
        return error.exit_code
    print(f"largest differences, {args.filters} filters, {STEPS} steps, {SIDE}x{SIDE}")
    print("channels  generator       float64  float32  grey levels  pictures")
    for item in items:
        print(
            f"{item.channels:8}  {item.net_g}  {item.float64:7.1e}  {item.float32:7.1e}"
            f"  {item.grey_levels:11}  {item.pictures:8}"
        )
    agree = all(item.agrees() for item in items)
    print(f"{'within' if agree else 'NOT within'} {LIMITS}")
    if args.json:
        print(json.dumps({"agree": agree, "items": [asdict(item) for item in items]}))
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())

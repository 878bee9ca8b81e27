"""What the tests share: a tiny data folder, pairs, a configuration and a run trained with it."""

import os
import signal

# Before torch is imported, here and in every process the tests start: the networks are tiny, so that
# threads would only wait for each other, and the thread count is part of what makes a result exact.
os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
import torch
from PIL import Image as Pillow

from ctmr.config import PRESETS, Config, parse_config
from support.heads import head, save_grey, write_data

# Not ignored, as it is under nohup: the tests send it, and what they start inherits it.
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Let torch use one thread."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder of this test session, so that nothing touches the user's."""
    place = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CTMR_CACHE", str(place))
        yield place


@pytest.fixture(scope="session", autouse=True)
def no_pauses() -> Iterator[None]:
    """Try again to write without waiting."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ctmr.system.files.PAUSES", (0.0, 0.0, 0.0))
        yield


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of 10 CT and 8 MR training images and 3 + 3 test images; not to be changed."""
    return write_data(tmp_path_factory.mktemp("tiny") / "data")


@pytest.fixture(scope="session")
def tiny_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pairs, `ct/` and `mr/`: 2 subjects with 2 slices each, 48 x 48; not to be changed."""
    folder = tmp_path_factory.mktemp("tiny") / "pairs"
    for n in range(4):
        name = f"head{n // 2:02d}_slice{n % 2:02d}.png"
        save_grey(folder / "ct" / name, head(300 + n, "ct", 48, 48))
        save_grey(folder / "mr" / name, head(300 + n, "mr", 48, 48))
    return folder


@pytest.fixture(scope="session")
def tiny_config() -> Config:
    """A configuration whose step takes some milliseconds: 32 pixels, one block, 6 steps."""
    settings = PRESETS["small"].model_dump()
    settings["seed"] = 3
    settings["data"] |= {"size": 32, "ct_window": "wide"}
    settings["network"] |= {"generator": "resnet", "blocks": 1, "filters": 4, "skips": False}
    settings["network"] |= {"discriminator_filters": 4, "initialisation": "normal"}
    settings["loss"] |= {"cycle": 4.0, "identity": 8.0, "structure": 0.0, "cycle_noise": 0.0}
    settings["loss"] |= {"adversary": 1.0, "truth": 0.0, "half_real": 0.0}
    settings["train"]["start"] = "random"
    settings["train"] |= {"steps": 6, "epochs": 1, "batch_size": 1, "learning_rate": 0.002}
    settings["train"] |= {"history": 3, "ema": 0.9, "precision": "float32", "workers": 0}
    settings["train"] |= {"checkpoint_every": 3, "sample_every": 100, "log_every": 1}
    return parse_config(settings, source="tests/conftest.py")


@pytest.fixture(scope="session")
def tiny_run(
    tiny_config: Config, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a run trained for 6 steps with `tiny_config` on `tiny_data`; not to be changed."""
    from ctmr.training.train import train

    run = tmp_path_factory.mktemp("tiny") / "run"
    train(tiny_config, tiny_data, run)
    return run


@pytest.fixture(scope="session")
def tiny_volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of NIfTI volumes, 2 CT and 2 MR for training and a pair in `test`; not to be changed."""
    from ctmr import synthesise_head, write_scan
    from ctmr.imaging.volume import Volume

    folder = tmp_path_factory.mktemp("tiny") / "volumes"
    for n, split in enumerate(("train", "train", "test"), 1):
        for modality, seed in (("ct", n), ("mr", n if split == "test" else 10 + n)):
            head = synthesise_head(seed, shape=(36, 42, 12), spacing_mm=(5.0, 5.0, 12.0))
            array = head.ct if modality == "ct" else head.mr * (900 / head.mr.max())
            scan = Volume(array, head.affine, modality)
            write_scan(folder / split / modality / f"{n}.nii.gz", scan)
    for place in folder.rglob(".ctmr-outputs.json"):
        place.unlink()  # as if others had written them
    return folder


@pytest.fixture(scope="session")
def tiny_volume_run(
    tiny_config: Config, tiny_volumes: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a run trained for 2 steps on `tiny_volumes`; not to be changed."""
    from ctmr.config import overlaid
    from ctmr.training.train import train

    run = tmp_path_factory.mktemp("tiny") / "volume-run"
    train(overlaid(tiny_config, ["data.pixel_mm=5", "train.steps=2"]), tiny_volumes, run)
    return run


@pytest.fixture(scope="session")
def label_maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the label map of one round head; not to be changed."""
    from support.label_maps import write_map

    folder = tmp_path_factory.mktemp("tiny") / "maps"
    folder.mkdir()
    write_map(folder / "round.nii.gz")
    return folder


@pytest.fixture(scope="session")
def bundled_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like that of the models in the package, with a `head` of random weights; not to be changed."""
    from support.identity import write_bundled

    place = tmp_path_factory.mktemp("tiny") / "bundled"
    write_bundled(place / "head")
    return place


@pytest.fixture
def bundled(bundled_place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the bundled model `head`, put in the place of that in the package."""
    monkeypatch.setattr("ctmr.models.bundle.BUNDLED", bundled_place)
    return bundled_place / "head"


@pytest.fixture(scope="module")
def quick_records(tiny_run: Path) -> Iterator[None]:
    """Look at four images in an evaluation and leave figures white: most of the time of a tiny training.

    What other modules share is made before, whatever the order of the modules.
    """

    def white(_: object, file: IO[bytes], **options: object) -> None:
        Pillow.new("L", (8, 8), 255).save(file, format="png")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ctmr.training.validation.MAX_SLICES", 4)
        patch.setattr("matplotlib.figure.Figure.savefig", white)
        yield

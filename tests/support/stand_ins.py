"""What stands in for a long demo and for Kaggle, in a test's own process and in one that it starts."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

TESTS = Path(__file__).parents[1]
SMALL = (
    *("data.size=32", "network.filters=4", "train.start=random"),
    *("network.discriminator_filters=4", "train.checkpoint_every=1000"),
)


def small_demo(patch: pytest.MonkeyPatch) -> None:
    """Let the demo make few small heads, train a quick network for two steps and look at few images."""
    from ctmr import config, demo
    from ctmr.evaluation import evaluate
    from ctmr.training import validation

    for name, value in (("SUBJECTS", 1), ("SIZE", 32), ("TIMED_STEPS", 2), ("WARM_UP", 0)):
        patch.setattr(demo, name, value)
    patch.setattr(evaluate, "HEADS", 2)
    patch.setattr(validation, "MAX_SLICES", 4)
    patch.setitem(config.PRESETS, "small", config.load_config("small", overrides=SMALL))


def bundled(patch: pytest.MonkeyPatch) -> None:
    """Let a tiny model of random weights come with the package, the same in every process."""
    from ctmr.models import bundle
    from support.identity import write_bundled

    place = Path(os.environ["CTMR_CACHE"], "bundled")
    if not place.is_dir():
        write_bundled(place / "head")
    patch.setattr(bundle, "BUNDLED", place)


def kaggle(patch: pytest.MonkeyPatch) -> None:
    """Let the download give a folder with one small image in each of four folders."""
    patch.setitem(sys.modules, "kagglehub", SimpleNamespace(dataset_download=_downloaded))


def _downloaded(_: str) -> str:
    place = Path(os.environ["CTMR_CACHE"], "kaggle")
    for name in ("trainA", "trainB", "testA", "testB"):
        (place / name).mkdir(parents=True, exist_ok=True)
        (place / name / "a.png").write_text(name)
    return str(place)


def program(stand_in: str | None = None) -> str:
    """What `python -c` runs: the program, with one of the functions above called before it."""
    main = "from ctmr.cli import main; main()"
    if stand_in is None:
        return main
    return (
        f"import sys; sys.path.insert(0, {str(TESTS)!r}); import pytest\n"
        f"from support import stand_ins; stand_ins.{stand_in}(pytest.MonkeyPatch())\n{main}"
    )

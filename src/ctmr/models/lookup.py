"""Where the files of a model are, looked up without PyTorch."""

from pathlib import Path

from ctmr.errors import CheckpointError
from ctmr.models.bundle import bundled_folder, bundled_names, is_bundled
from ctmr.models.card import CARD_NAME
from ctmr.system.files import set_aside
from ctmr.types import Direction, Modality

GENERATOR_FILES: dict[Direction, str] = {
    "ct-to-mr": "generator_ct_to_mr.safetensors",
    "mr-to-ct": "generator_mr_to_ct.safetensors",
}
DISCRIMINATOR_FILES: dict[Modality, str] = {
    "ct": "discriminator_ct.safetensors",
    "mr": "discriminator_mr.safetensors",
}


def model_folder(path: Path) -> Path:
    """The model folder meant by MODEL: a run, its `model/`, an exported folder, or the name of a bundled model.

    Raises:
        CheckpointError: If there is no `model.json` in any place.
    """
    for folder in (path, path / "model", set_aside(path), set_aside(path / "model")):
        if (folder / CARD_NAME).is_file():
            return folder
    if (bundled := bundled_folder(path)) is not None:
        return bundled
    names = "".join(f", or {name}, which comes with ctmr" for name in bundled_names())
    raise CheckpointError(
        "expected a run or a model folder with model.json, found none",
        file=path,
        fix=f"name the folder that ctmr train wrote with --out{names}",
    )


def results_folder(path: Path) -> Path:
    """Where the results of an evaluation of MODEL go: into its folder, but never into the package."""
    return Path("evaluation") if is_bundled(model_folder(path)) else path / "evaluation"

"""The models that the page offers, by what their `model.json` says: those named, those of runs, and the bundled one."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctmr.errors import CheckpointError
from ctmr.models.bundle import CARD_NAME, HEAD, MAX_BYTES, bundled_folder
from ctmr.system.files import read_regular

_DIRECTIONS = ("ct-to-mr", "mr-to-ct")


@dataclass(frozen=True)
class Model:
    """A model that the page offers.

    Attributes:
        name: What the page calls it: the name of its folder, or of its run.
        model: MODEL of the command line.
        sha256: Of its weights and settings.
        directions: That it translates.
        correlations: Direction -> measure -> how it ranks true errors; empty where that was not measured.
    """

    name: str
    model: str
    sha256: str
    directions: tuple[str, ...]
    correlations: dict[str, dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """What the page is told: no path."""
        told = ("name", "sha256", "directions", "correlations")
        return {name: getattr(self, name) for name in told}


def models_of(named: Iterable[Path], runs: Iterable[Path]) -> list[Model]:
    """The bundled model, those named, and those of runs that have one.

    Raises:
        CheckpointError: If one of those named cannot be read.
    """
    bundled = bundled_folder(HEAD)
    found = [_read(HEAD, HEAD, bundled)] if bundled is not None else []
    for path in named:
        folder = next(
            (place for place in (path, path / "model") if (place / CARD_NAME).is_file()),
            bundled_folder(path),
        )
        if folder is None:
            raise CheckpointError(
                "expected a run or a model folder with model.json, found none",
                file=path,
                fix="name the folder that ctmr train wrote with --out",
            )
        found.append(
            _read(path.resolve().name, str(path.resolve() if path.exists() else path), folder)
        )
    for run in runs:
        if (run / "model" / CARD_NAME).is_file():
            try:
                found.append(_read(run.name, str(run.resolve()), run / "model"))
            except CheckpointError:
                continue  # it is being written, or damaged: the others are offered
    unique: dict[str, Model] = {}
    for model in found:
        unique.setdefault(model.model, model)
    return list(unique.values())


def _read(name: str, model: str, folder: Path) -> Model:
    try:
        card = json.loads(read_regular(folder / CARD_NAME, MAX_BYTES))
        directions = (card.get("provenance") or {}).get("directions") or _DIRECTIONS
        known = tuple(each for each in _DIRECTIONS if each in directions)
        return Model(name, model, str(card["sha256"]), known, card.get("correlations") or {})
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"expected the model.json of a model: found another file ({type(error).__name__})",
            file=folder / CARD_NAME,
            fix="name another model",
        ) from error

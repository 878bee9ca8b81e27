"""The models that come with the package, looked up without torch; nothing is ever written there."""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ctmr.errors import CheckpointError
from ctmr.system.files import read_regular

BUNDLED = Path(__file__).parent / "bundled"
HEAD = "head"  # the model that is used where none is named
CARD_NAME = "model.json"  # as in `models.card`, which takes longer to import
PAGE_NAME = "README.md"  # what the model is, with figures and limits, for people
MAX_BYTES = 2**24
_FOR_PROGRAMS = re.compile(r"\A---\n.*?\n---\n\s*|^<!--[^>]*-->\n", re.DOTALL | re.MULTILINE)
FIX = "install ctmr from its wheel again"


@dataclass(frozen=True)
class BundledModel:
    """What `ctmr models` says of a model in the package.

    Attributes:
        name: By which MODEL means it.
        directions: That it translates.
        what: One sentence.
        licence: Of its weights, an SPDX identifier.
        limits: What it cannot do.
        size_mb: Of its folder.
        sha256: Of `model.json`, which has the hashes of the weights.
        folder: Where it is.
    """

    name: str
    directions: tuple[str, ...]
    what: str
    licence: str
    limits: tuple[str, ...]
    size_mb: float
    sha256: str
    folder: str

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def bundled_names() -> list[str]:
    """Names of the models in the package."""
    return sorted(path.parent.name for path in BUNDLED.glob(f"*/{CARD_NAME}"))


def bundled_folder(model: Path | str) -> Path | None:
    """The folder of a bundled model, meant by its name; None if there is none of that name."""
    name = str(model)
    return BUNDLED / name if name in bundled_names() else None


def is_bundled(folder: Path) -> bool:
    """Whether a model folder lies in the package."""
    return folder.resolve().is_relative_to(BUNDLED.resolve())


def bundled_models() -> list[BundledModel]:
    """Every model in the package, by what its `model.json` says.

    Raises:
        CheckpointError: If one cannot be read.
    """
    return [_read(BUNDLED / name) for name in bundled_names()]


def bundled_page(name: str) -> str:
    """The page about a bundled model, without the front matter and the comments that are for programs.

    Raises:
        CheckpointError: If there is no such model, or it has no page.
    """
    folder = bundled_folder(name)
    if folder is None:
        known = ", ".join(bundled_names()) or "none"
        raise CheckpointError(
            f"expected a model that comes with ctmr ({known}): found {name!r}", fix="ctmr models"
        )
    try:
        page = read_regular(folder / PAGE_NAME, MAX_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError("cannot read it", file=folder / PAGE_NAME, fix=FIX) from error
    return _FOR_PROGRAMS.sub("", page)


def _read(folder: Path) -> BundledModel:
    try:
        card = json.loads(read_regular(folder / CARD_NAME, MAX_BYTES))
        about = card["provenance"]
        return BundledModel(
            name=folder.name,
            directions=tuple(about["directions"]),
            what=about["what"],
            licence=about["licence"],
            limits=tuple(about["limits"]),
            size_mb=round(sum(path.stat().st_size for path in folder.iterdir()) / 1e6, 1),
            sha256=card["sha256"],
            folder=str(folder),
        )
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(
            f"not the model.json of a bundled model ({type(error).__name__})",
            file=folder / CARD_NAME,
            fix=FIX,
        ) from error

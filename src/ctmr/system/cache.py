"""The cache folder of a user: the only place that ctmr writes to unasked, for what can be made again."""

import os
from pathlib import Path

from ctmr.errors import OutputError

FIX = "set CTMR_CACHE to a folder that can be written"


def cache_folder() -> Path:
    """The user's cache folder of ctmr: $CTMR_CACHE, else as the XDG base directories say; made if it is missing.

    Raises:
        OutputError: If the user has no home folder, or the cache folder cannot be made.
    """
    place = _place()
    try:
        place.mkdir(
            mode=0o700, parents=True, exist_ok=True
        )  # scans of patients: for their user alone
    except OSError as error:
        raise OutputError(
            f"cannot make the cache folder ({error.strerror})", file=place, fix=FIX
        ) from error
    return place


def _place() -> Path:
    if place := os.environ.get("CTMR_CACHE"):
        return Path(place)
    if place := os.environ.get("XDG_CACHE_HOME"):
        return Path(place) / "ctmr"
    try:
        return Path.home() / ".cache" / "ctmr"
    except RuntimeError as error:
        raise OutputError(
            "expected a home folder to keep the cache in: found none for this user", fix=FIX
        ) from error

"""Which files beside scans ctmr itself wrote: by the sidecar that names them, not by their names alone."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ctmr.files import content_digest, read_regular

MAPS_NAME = "quality"  # of the folder beside sidecars in which maps of doubt lie
MAX_SIDECAR_BYTES = 10_000_000


def is_own_extra(path: Path) -> bool:
    """Whether ctmr wrote this file, and it is no scan: a map, a preview, a figure.

    The sidecar of a translation lists its files in `outputs` with their SHA-256; `result` is the translation itself.
    """
    for sidecar in _sidecars(path):
        try:
            said: Any = json.loads(read_regular(sidecar, MAX_SIDECAR_BYTES))
            if "outputs" not in said:
                measure = path.name.partition(".")[0].removeprefix(sidecar.stem + "_")
                return measure in said["quality"]["maps"]
            name = path.relative_to(sidecar.parent).as_posix()
            if name != said["result"] and said["outputs"][name] == content_digest(path).hex():
                return True
        except (OSError, ValueError, LookupError, TypeError):  # another JSON file, or none
            continue
    return False


def _sidecars(path: Path) -> Iterator[Path]:
    """Where the sidecar of a map `STEM_measure.png` may lie: above its folder, named by any start of its name."""
    if path.parent.name == MAPS_NAME:
        words = path.name.split("_")
        for end in range(1, len(words)):
            sidecar = path.parent.parent / ("_".join(words[:end]) + ".json")
            if sidecar.is_file():
                yield sidecar

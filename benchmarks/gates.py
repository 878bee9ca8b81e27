#!/usr/bin/env python3
"""How often a model refuses or warns of real heads, and refuses what is no head or another modality.

    gates.py [--model MODEL] MODALITY=FOLDER[:LOW:HIGH] ...

Each folder holds heads of that modality (LOW:HIGH: the window of a CT in grey values). Every scan is judged as it is; of
single images also what should be refused: the image given as the other modality, turned by 90 degrees, noise with its
grey values, and its pixels shuffled in tiles. A scan is refused if `translate` would end with an error without --anyway.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from ctmr.errors import CtmrError
from ctmr.imaging.image import Image, Scan
from ctmr.io.listing import find_scans
from ctmr.io.reading import Reading
from ctmr.io.scan import read_with_series
from ctmr.models.bundle import HEAD
from ctmr.system.rng import stream
from ctmr.translation.translator import Translator, load_model
from ctmr.types import OTHER, Modality

TILE = 16  # pixels of a tile that is put elsewhere


def verdict(translator: Translator, scan: Scan, modality: Modality) -> str:
    """`ok`, `warn` or `refuse`."""
    try:
        return translator.check(scan, OTHER[modality]).level
    except CtmrError:
        return "refuse"


def spoilt(image: Image, modality: Modality, number: int) -> Iterator[tuple[str, Image, Modality]]:
    """What no translation should be made of."""
    rng, array = stream("gates", number), image.grey
    yield "as the other modality", image, OTHER[modality]
    yield "turned by 90 degrees", replace(image, array=np.rot90(array).copy()), modality
    noise = rng.permutation(array.ravel()).reshape(array.shape)
    yield "noise", replace(image, array=noise), modality
    rows, columns = (n // TILE for n in array.shape)
    tiles = array[: rows * TILE, : columns * TILE].reshape(rows, TILE, columns, TILE)
    tiles = tiles.transpose(0, 2, 1, 3).reshape(-1, TILE, TILE)[rng.permutation(rows * columns)]
    mixed = tiles.reshape(rows, columns, TILE, TILE).transpose(0, 2, 1, 3)
    yield "tiles", replace(image, array=mixed.reshape(rows * TILE, columns * TILE).copy()), modality


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", metavar="MODALITY=FOLDER[:LOW:HIGH]")
    parser.add_argument("--model", default=HEAD)
    options = parser.parse_args()
    translator = load_model(options.model)
    table: dict[str, dict[str, int]] = {}
    for given in options.folders:
        name, _, place = given.partition("=")
        modality: Modality = "ct" if name == "ct" else "mr"
        folder, _, window = place.partition(":")
        reading = Reading(irregular=True, ct_values=window or None)
        good, bad = Counter[str](), Counter[str]()
        for number, found in enumerate(find_scans(Path(folder))):
            scan, _ = read_with_series(
                found.path, modality=modality, reading=reading, files=found.series
            )
            good[verdict(translator, scan, modality)] += 1
            if isinstance(scan, Image):
                for kind, image, claimed in spoilt(scan, modality, number):
                    bad[f"{kind}: {verdict(translator, image, claimed)}"] += 1
        table[given] = dict(sorted(good.items())) | dict(sorted(bad.items()))
        print(json.dumps({given: table[given]}, indent=1), flush=True)


if __name__ == "__main__":
    main()

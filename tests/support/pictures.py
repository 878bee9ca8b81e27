"""Pictures of synthetic heads, and data folders of them, for the tests of the audit."""

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from ctmr.audit.near_duplicates import fingerprint
from ctmr.audit.scan_profile import Picture
from ctmr.data.sources import Source
from ctmr.imaging.descriptors import describe, outlined, shrunk
from ctmr.io.image_info import ImageInfo
from ctmr.synthetic.head import synthesise_head

HEIGHTS_MM = (95.0, 80.0, 65.0, 50.0)
SIDE = 96


@cache
def slices(seed, modality):
    """Four axial slices of a head, 8 bits a pixel in float32: `ct` from -100 to 300 HU, `wide` all HU, `mr`."""
    head = synthesise_head(
        seed,
        shape=(SIDE, SIDE, len(HEIGHTS_MM)),
        spacing_mm=(230 / SIDE, 230 / SIDE, 5.0),
        sequence="t1" if seed % 2 else "t2",
        heights_mm=HEIGHTS_MM,
    )
    low, high = (-1000.0, 2500.0) if modality == "wide" else (-100.0, 300.0)
    array = head.ct
    if modality == "mr":
        array, low, high = head.mr, 0.0, float(np.percentile(head.mr[head.mask], 99.5))
    upright = array[::-1, ::-1].transpose(2, 1, 0)
    return np.rint(255 * np.clip((upright - low) / (high - low), 0, 1)).astype(np.float32)


def save(path, pixels, **options):
    """Write grey or RGB pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(np.rint(pixels).astype(np.uint8)).save(path, **options)
    return path


def write_clean_data(data):
    """A data folder without a fault: other heads in each folder, 12 + 12 + 4 + 4 pictures."""
    for folder, modality, seeds in (
        ("trainA", "wide", (1, 2, 3)),
        ("trainB", "mr", (4, 5, 6)),
        ("testA", "wide", (7,)),
        ("testB", "mr", (8,)),
    ):
        for seed in seeds:
            for k, pixels in enumerate(slices(seed, modality)):
                save(data / folder / f"p{seed}_{k}.png", pixels)
    return data


def look(pixels):
    """Descriptors and fingerprint of a picture."""
    small = outlined(shrunk(np.asarray(pixels, np.float32)))
    return describe(small), fingerprint(small.grey, small.head)


def picture(label, *, digest=None, patient=None, looks=None, **other):
    """A picture as the inventory makes it, of nothing but what a test says."""
    folder, _, name = label.rpartition("/")
    split = "train" if folder.startswith("train") else "test"
    modality = "ct" if folder.endswith(("A", "ct")) else "mr"
    path = Path("data") / folder / name
    source = Source(Path("data"), split, modality, path, "image", label, patient, ImageInfo())
    descriptors, prints = looks or (None, None)
    usual = {"shape": (64, 64), "stored": "8-bit grey", "ends": (0.0, 0.0), "marks": ()}
    usual |= {"plane": None, "part": None, "thumbnail": b"", "digest": digest or label}
    return Picture(
        **{
            "source": source,
            "patient": patient,
            "descriptors": descriptors,
            "print": prints,
            **usual,
            **other,
        }
    )

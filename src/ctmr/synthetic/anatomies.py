"""Whole heads as tissue maps on a grid of 1 mm, from which pairs of slices are rendered (`synthetic/pairs.py`)."""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import scipy
from safetensors import safe_open
from safetensors.numpy import save as to_bytes

from ctmr.errors import DataError
from ctmr.synthetic.head import synthesise_head
from ctmr.synthetic.tissues import BRAIN, LABELS
from ctmr.system.cache import cache_folder
from ctmr.system.files import write_bytes

_ADDED = ("mucosa", "spinal cord", "choroid plexus", "soft tissue", "orbital tissue", "tendon")
TISSUE_NAMES = (*LABELS, *_ADDED)
"""Name of each code. A person splits soft and orbital tissue into fat, muscle and tendon (`synthetic/persons.py`)."""
CODE = {name: code for code, name in enumerate(TISSUE_NAMES)}

# Numbers of the label maps of Billot et al. 2023, Medical Image Analysis 86:102789 (SynthSeg, `training_label_maps`).
_MAP_LABELS: dict[str, tuple[int, ...]] = {
    "skin": (511,),
    "soft tissue": (507,),
    "muscle": (508,),
    "mucosa": (509,),
    "cortical bone": (515,),
    "diploe": (516,),
    "eye": (506,),
    "dura": (514,),
    "blood vessel": (502, 30, 62),
    "csf": (24, 85),
    "ventricle": (4, 5, 14, 15, 43, 44, 72),
    "white matter": (2, 41, 7, 46, 530, 25, 57),
    "grey matter": (3, 42, 8, 47, 17, 18, 53, 54),
    "deep grey": (10, 11, 12, 13, 26, 49, 50, 51, 52, 58, 28, 60),
    "brain stem": (16,),
    "spinal cord": (512,),
    "choroid plexus": (31, 63, 136, 137, 163, 164),
}
_EYE_LABELS = (506, 508, 530)
ORBIT_MM = 13.0
"""Soft tissue nearer than this to an eye, its muscles or its nerve is orbital."""
SKIN_STEP_MM, BONE_STEP_MM, CAVITY_STEP_MM = 0.25, 0.125, 0.5
MARGIN_VOXELS = 6
CELL_VOXELS, VAULT_MM = 200, 45
SYNTHETIC_HEADS = 12
HEADS = 1
"""Raised whenever procedural heads come out otherwise."""
PACKING = 2
"""Raised whenever anatomies are packed in another way, so that older ones in the cache are left alone."""


logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Anatomy:
    """One head on a grid of 1 mm: I to the right, J to the front, K up, with `MARGIN_VOXELS` of air round it.

    Each voxel of `packed` holds four bytes: the tissue, then three signed distances in mm, positive inside, each
    stored as 128 + distance / step and clipped: below the skin, below the surface of bone, in the cavity of the skull.

    Attributes:
        name: Of the file, or `synthetic-SEED`.
        packed: (I, J, K), see `unpack`.
        brain: First and last plane K that shows brain.
        file: In the cache, from which other processes map it.
    """

    name: str
    packed: npt.NDArray[np.uint32]
    brain: tuple[int, int]
    file: Path | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        if self.file is not None:
            return _mapped, (self.file,)
        return Anatomy, (self.name, self.packed, self.brain)

    @property
    def key(self) -> str:
        """What it was made from; changes when anatomies are made otherwise."""
        return self.file.stem if self.file is not None else self.name


@dataclass(frozen=True, eq=False)
class Voxels:
    """What is known of sampled voxels, arrays of one shape; distances in mm, positive inside."""

    tissue: npt.NDArray[np.uint8]
    skin: npt.NDArray[np.float32]
    bone: npt.NDArray[np.float32]
    cavity: npt.NDArray[np.float32]


def unpack(packed: npt.NDArray[np.uint32]) -> Voxels:
    """The four bytes of each voxel of `Anatomy.packed`."""
    tissue, skin, bone, cavity = np.moveaxis(packed[..., None].view(np.uint8), -1, 0)
    return Voxels(
        tissue.copy(),
        _distance(skin, SKIN_STEP_MM),
        _distance(bone, BONE_STEP_MM),
        _distance(cavity, CAVITY_STEP_MM),
    )


def _distance(stored: npt.NDArray[np.uint8], step_mm: float) -> npt.NDArray[np.float32]:
    return (stored.astype(np.float32) - 128) * np.float32(step_mm)


def read_anatomy(path: Path) -> Anatomy:
    """A label map of a whole head, in the numbers of Billot et al. 2023.

    Raises:
        DataError: If it is not such a map.
    """
    try:
        image = nib.as_closest_canonical(nib.load(path))
        numbers = np.asarray(image.dataobj).astype(np.int32)
    except (OSError, ValueError, nib.filebasedimages.ImageFileError) as error:
        raise DataError(
            f"cannot read it ({error})", file=path, fix="fetch it again (ctmr fetch anatomies)"
        ) from error
    table = np.zeros(1 + max(1000, int(numbers.max())), np.uint8)
    for name, labels in _MAP_LABELS.items():
        table[list(labels)] = CODE[name]
    present = set(np.unique(numbers).tolist())
    if numbers.ndim != 3 or not {0, 2, 3, 515, 507} <= present:
        raise DataError(
            "expected a label map of a whole head (labels 2, 3, 507 and 515): found"
            f" {len(present)} labels, shape {numbers.shape}",
            file=path,
            fix="name a folder of label maps (ctmr fetch anatomies)",
        )
    tissue = table[np.clip(numbers, 0, len(table) - 1)]
    near = scipy.ndimage.distance_transform_edt(~np.isin(numbers, _EYE_LABELS)) < ORBIT_MM
    tissue[near & (tissue == CODE["soft tissue"])] = CODE["orbital tissue"]
    tissue[~largest_part(tissue > 0)] = 0  # specks that hang in the air
    return _anatomy(path.name, _without_specks(tissue[_box(tissue)]))


def synthetic_anatomy(seed: int) -> Anatomy:
    """The anatomy of a head of `synthesise_head`, 1 mm."""
    head = synthesise_head(seed, shape=(220, 256, 200))
    return _anatomy(f"synthetic-{seed}", np.ascontiguousarray(head.labels))


def largest_part(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The largest connected part of a mask."""
    labels, count = scipy.ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    largest: npt.NDArray[np.bool_] = labels == sizes.argmax()
    return largest


def _without_specks(tissue: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The map with each voxel given to the tissue that is most of its neighbourhood, bone favoured since it is thin.

    Air cells of fewer than `CELL_VOXELS` in the vault, where there are none, become what lies round them.
    """
    most = np.zeros(tissue.shape, np.float32)
    solid, solid_most = np.zeros_like(tissue), np.zeros(tissue.shape, np.float32)
    for code in np.unique(tissue):
        share = scipy.ndimage.gaussian_filter((tissue == code).astype(np.float32), 0.8, truncate=2)
        if code in (CODE["cortical bone"], CODE["diploe"]):
            share *= np.float32(1.3)
        if code != CODE["air"]:
            better = share > solid_most
            solid[better], solid_most[better] = code, share[better]
        else:
            most = share
    smoothed = np.where(most > solid_most, np.uint8(0), solid)
    cells, _ = scipy.ndimage.label(smoothed == 0)
    small = (np.bincount(cells.ravel()) < CELL_VOXELS)[cells] & (cells > 0)
    brain = np.flatnonzero((tissue == CODE["white matter"]).any((0, 1)))
    small[:, :, : brain[0] + VAULT_MM] = False
    cleaned: npt.NDArray[np.uint8] = np.where(small, solid, smoothed)
    return cleaned


def _box(tissue: npt.NDArray[np.uint8]) -> tuple[slice, ...]:
    """The part of the map that holds the head, with `MARGIN_VOXELS` round it where there are as many."""
    return tuple(
        slice(max(0, places.min() - MARGIN_VOXELS), places.max() + 1 + MARGIN_VOXELS)
        for places in np.nonzero(tissue)
    )


def _anatomy(name: str, tissue: npt.NDArray[np.uint8]) -> Anatomy:
    tissue = np.pad(tissue[_box(tissue)], [(0, 0), (0, 0), (0, MARGIN_VOXELS)])
    for axis in (0, 1):  # a map may end where its box did
        tissue = np.concatenate(
            [np.zeros_like(tissue.take(range(MARGIN_VOXELS), axis)), tissue], axis
        )
        tissue = np.concatenate(
            [tissue, np.zeros_like(tissue.take(range(MARGIN_VOXELS), axis))], axis
        )
    solid = scipy.ndimage.binary_closing(tissue > 0, iterations=5)
    for k in range(tissue.shape[2]):
        solid[:, :, k] = scipy.ndimage.binary_fill_holes(solid[:, :, k])
    solid |= tissue > 0
    bone = np.isin(tissue, (CODE["cortical bone"], CODE["diploe"]))
    inside = np.isin(tissue, [CODE[name] for name in (*BRAIN, "csf", "dura", "choroid plexus")])
    packed = np.stack(
        [
            tissue,
            _stored(solid, SKIN_STEP_MM),
            _stored(bone, BONE_STEP_MM),
            _stored(inside, CAVITY_STEP_MM),
        ],
        axis=-1,
    )
    brain = np.flatnonzero(np.isin(tissue, (CODE["grey matter"], CODE["white matter"])).any((0, 1)))
    return Anatomy(
        name, np.ascontiguousarray(packed).view(np.uint32)[..., 0], (int(brain[0]), int(brain[-1]))
    )


def _stored(mask: npt.NDArray[np.bool_], step_mm: float) -> npt.NDArray[np.uint8]:
    """Signed distance to the surface of a mask, half a voxel off its voxels' centres, as a byte."""
    inside, outside = (scipy.ndimage.distance_transform_edt(part) for part in (mask, ~mask))
    distance = inside - outside - np.where(mask, 0.5, -0.5)
    stored: npt.NDArray[np.uint8] = np.clip(np.round(distance / step_mm) + 128, 0, 255).astype(
        np.uint8
    )
    return stored


def label_maps(folder: Path) -> list[Path]:
    """The label maps in a folder, by name.

    Raises:
        DataError: If there is none.
    """
    paths = sorted(folder.glob("*.nii*"))
    if not paths:
        raise DataError(
            "expected label maps (.nii.gz), found none",
            file=folder,
            fix="ctmr fetch anatomies OUT",
        )
    return paths


def cached_anatomy(path: Path) -> Anatomy:
    """The anatomy of a label map; made once, then in the cache.

    Raises:
        DataError: If it cannot be read.
        OutputError: If the cache cannot be written.
    """
    key = hashlib.sha256(path.read_bytes()).hexdigest()[:32]
    return _cached(key, partial(read_anatomy, path))


def cached_anatomies(folder: Path | str | None, synthetic: int = SYNTHETIC_HEADS) -> list[Anatomy]:
    """The anatomies of a folder of label maps, or so many procedural ones for None; see `cached_anatomy`."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        if folder is not None:
            return list(pool.map(cached_anatomy, label_maps(Path(folder))))
        return list(pool.map(_cached_synthetic, range(synthetic)))


def _cached_synthetic(seed: int) -> Anatomy:
    return _cached(f"synthetic-{HEADS}-{seed}", partial(synthetic_anatomy, seed))


def _cached(key: str, make: Callable[[], Anatomy]) -> Anatomy:
    file = cache_folder() / "anatomies" / f"{key}-{PACKING}.safetensors"
    if not file.is_file():
        logger.info("making %s for the cache, once", key)
        _write(file, make())
    return _mapped(file)


def _write(file: Path, anatomy: Anatomy) -> None:
    about = {"name": anatomy.name, "brain": json.dumps(anatomy.brain)}
    write_bytes(file, to_bytes({"packed": anatomy.packed}, about))


def _mapped(file: Path) -> Anatomy:
    """An anatomy of the cache, its voxels mapped, not read."""
    with safe_open(file, "numpy") as kept:
        about, shape = kept.metadata(), kept.get_slice("packed").get_shape()
    with file.open("rb") as stream:
        offset = 8 + int.from_bytes(stream.read(8), "little")
    low, high = json.loads(about["brain"])
    packed = np.memmap(file, "<u4", "r", offset, tuple(shape))
    return Anatomy(about["name"], packed, (low, high), file)

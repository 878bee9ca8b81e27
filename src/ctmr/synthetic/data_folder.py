"""A data folder of synthetic heads: unpaired training scans, paired test scans, and the truth."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ctmr.errors import UsageError
from ctmr.imaging.image import Image
from ctmr.imaging.volume import Volume
from ctmr.io.dicom.writer import phantom_series
from ctmr.io.image_info import write_image_info
from ctmr.io.images import write_image
from ctmr.io.nifti import write_nifti
from ctmr.io.scan import DESCRIPTION
from ctmr.synthetic.anatomies import cached_anatomy, label_maps
from ctmr.synthetic.head import Head, synthesise_head
from ctmr.synthetic.lesions import LESIONS, Lesion
from ctmr.synthetic.rendered_head import rendered_head
from ctmr.system.files import require_empty, write_json
from ctmr.system.parallel import in_processes
from ctmr.system.rng import stream
from ctmr.types import FloatArray, Modality, Spacing

# Axial slices of a head, in mm below its top: from the vault down to the skull base.
HEIGHTS_MM = tuple(float(height) for height in range(120, 20, -10))
SLICE_MM = 5.0
FIELD_OF_VIEW_MM = (210.0, 240.0)
# Volumes reach from the vault to below the skull base, in slices of one of these distances.
DEPTH_MM = 170.0
SLICES_MM = (2.0, 2.5, 3.0)
# Subjects of the pairs for testing and for choosing a checkpoint, for each training subject of a modality; at least 2.
TEST_SHARE, VAL_SHARE = 0.5, 1 / 6
Format = Literal["png", "nifti", "dicom"]
Group = Literal["train-ct", "train-mr", "test", "val"]


@dataclass(frozen=True)
class Subject:
    """One subject to be written.

    Attributes:
        name: Of its files, with `_slice-NN` behind it.
        seed: Of the head.
        split: `train-ct`, `train-mr`, or pairs: `test` or `val`.
        lesions: Kinds of lesion it has.
    """

    name: str
    seed: int
    split: Group
    lesions: tuple[str, ...]


@dataclass(frozen=True)
class WrittenSubject:
    """What `subjects.json` says of a subject."""

    name: str
    seed: int
    group: Group
    spacing_mm: float
    slice_mm: float
    lesions: tuple[Lesion, ...]


@dataclass(frozen=True)
class Subjects:
    """What `subjects.json` says: how the heads were made, and each subject."""

    sequence: Literal["t1", "t2"]
    seed: int
    subjects: tuple[WrittenSubject, ...]


def write_heads(
    out: Path,
    *,
    subjects: int,
    seed: int = 0,
    lesions: float = 0.0,
    size: int = 256,
    sequence: Literal["t1", "t2"] = "t1",
    image_format: Format = "png",
    anatomies: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, int]:
    """Write a data folder of axial slices (CT as 16-bit PNG in HU, MR as 8-bit PNG) or of volumes.

    `train/ct` and `train/mr` are of different subjects; `test/` and `val/` hold `ct/`, `mr/` and `mask/` of pairs, the latter
    to choose a checkpoint by; `subjects.json` says what they are.

    Args:
        out: A folder that is new or empty.
        subjects: Training subjects of each modality; half as many more are for testing and a sixth for choosing, each
            at least 2.
        seed: The same seed gives the same files.
        lesions: Share of subjects with one or two lesions, 0 to 1.
        size: Side of an axial slice in pixels; the field of view differs between subjects.
        sequence: MR weighting.
        image_format: `png`: ten slices a head; `nifti`: a `.nii.gz` a head; `dicom`: a folder with a series a head.
            Volumes differ in the distance of their slices; masks are NIfTI then.
        anatomies: Folder of label maps whose heads are rendered, without faces, in place of procedural ones.
        progress: Called with subjects done and subjects to do.

    Raises:
        UsageError: If an argument is out of range, or lesions are asked for in heads of label maps.
        DataError: If there is no label map, or one cannot be read.
        OutputError: If the folder is not empty or cannot be written.
    """
    for name, value, low, high in (
        ("subjects", subjects, 1, 100_000),
        ("lesions", lesions, 0, 1),
        ("size", size, 32, 1024),
        ("seed", seed, 0, 2**31),
    ):
        if not low <= value <= high:
            raise UsageError(f"{name} must be {low} to {high}: got {value}", fix=f"change --{name}")
    if anatomies is not None and lesions > 0:
        raise UsageError(
            "heads of label maps have no lesions", fix="leave out --lesions, or --anatomies"
        )
    require_empty(out)
    if anatomies is not None:
        for path in label_maps(anatomies):  # once, before several processes need them
            cached_anatomy(path)
    people = _people(subjects, seed, lesions)
    if image_format == "png":
        counts = _write_infos(out, people, size)  # first: no CT lies there without its HU
    else:
        counts = dict(Counter(folder for person in people for folder in _folders(person.split)))
    made = []
    arguments = ((out, person, size, sequence, image_format, anatomies) for person in people)
    for about in in_processes(_write_subject, list(arguments)):
        made.append(about)
        if progress is not None:
            progress(len(made), len(people))
    write_json(out / "subjects.json", asdict(Subjects(sequence, seed, tuple(made))))
    return counts


def _write_infos(out: Path, people: Sequence[Subject], size: int) -> dict[str, int]:
    """Write the `ctmr.json` of every folder; return how many images each will hold."""
    spacings: dict[str, dict[str, Spacing]] = {}
    for person in people:
        for folder in _folders(person.split):
            names = (_file_name(person, i) for i in range(len(HEIGHTS_MM)))
            spacing = pixel_spacing(person.seed, size)
            spacings.setdefault(folder, {}).update(dict.fromkeys(names, spacing))
    for folder, files in spacings.items():
        unit: Literal["HU", "grey"] = "HU" if folder.endswith("ct") else "grey"
        write_image_info(out / folder, unit, files=files)
    return {folder: len(files) for folder, files in sorted(spacings.items())}


def _people(subjects: int, seed: int, lesions: float) -> list[Subject]:
    """Different subjects for each modality's training folder and for the pairs."""
    groups: tuple[tuple[Group, int], ...] = (
        ("train-ct", subjects),
        ("train-mr", subjects),
        ("test", max(2, round(TEST_SHARE * subjects))),
        ("val", max(2, round(VAL_SHARE * subjects))),
    )
    people: list[Subject] = []
    for split, count in groups:
        for _ in range(count):
            n = len(people)
            draw = stream(seed, "subject", n)
            kinds: tuple[str, ...] = ()
            if draw.random() < lesions:
                kinds = tuple(str(k) for k in draw.choice(LESIONS, int(draw.integers(1, 3)), False))
            head_seed = int(stream(seed, "head", n).integers(2**31))
            people.append(Subject(f"subject-{n:04d}", head_seed, split, kinds))
    return people


def _folders(split: str) -> tuple[str, ...]:
    """Where a subject of that group is written."""
    if split in ("test", "val"):
        return f"{split}/ct", f"{split}/mr", f"{split}/mask"
    return (split.replace("-", "/"),)


def _file_name(person: Subject, i: int) -> str:
    return f"{person.name}_slice-{i:02d}.png"


def pixel_spacing(seed: int, size: int) -> Spacing:
    """Pixel size in mm of a head's slices: the field of view differs between subjects."""
    view = float(stream(seed, "field of view").uniform(*FIELD_OF_VIEW_MM))
    return round(view / size, 4), round(view / size, 4)


def _write_subject(
    out: Path,
    person: Subject,
    size: int,
    sequence: Literal["t1", "t2"],
    image_format: Format,
    anatomies: Path | None,
) -> WrittenSubject:
    """Write one subject's slices or volumes; return what `subjects.json` says of it."""
    spacing = pixel_spacing(person.seed, size)
    if image_format == "png":
        heights: tuple[float, ...] | None = HEIGHTS_MM
        slices, distance = len(HEIGHTS_MM), SLICE_MM
    else:
        heights, distance = None, float(stream(person.seed, "slices").choice(SLICES_MM))
        slices = round(DEPTH_MM / distance)
    shape, voxel_mm = (size, size, slices), (*spacing, distance)
    if anatomies is None:
        head = synthesise_head(
            person.seed,
            shape=shape,
            spacing_mm=voxel_mm,
            sequence=sequence,
            lesions=person.lesions,
            heights_mm=heights,
        )
    else:
        head = rendered_head(
            cached_anatomy(_map_of(person, label_maps(anatomies))),
            person.seed,
            shape=shape,
            spacing_mm=voxel_mm,
            sequence=sequence,
            heights_mm=heights,
        )
    if image_format == "png":
        images = head_images(head, spacing)
        for folder in _folders(person.split):
            for i, image in enumerate(images[folder.rpartition("/")[2]]):
                write_image(out / folder / _file_name(person, i), image)
    else:
        for folder in _folders(person.split):
            _write_volume(out / folder, person, head, image_format)
    return WrittenSubject(
        person.name, person.seed, person.split, spacing[0], distance, tuple(head.lesions)
    )


def _map_of(person: Subject, maps: Sequence[Path]) -> Path:
    """The map a subject is rendered from; of several maps, a third is for testing and choosing only."""
    kept = max(1, len(maps) // 3) if len(maps) > 1 else 0
    usable = (
        maps[len(maps) - kept :]
        if kept and person.split in ("test", "val")
        else maps[: len(maps) - kept]
    )
    return usable[person.seed % len(usable)]


def _write_volume(
    folder: Path, person: Subject, head: Head, image_format: Literal["nifti", "dicom"]
) -> None:
    """Write a head's CT, MR or mask as that folder wants; rows run to the back and columns to the left, as scanners do."""
    kind = folder.name
    array = {"ct": head.ct, "mr": np.rint(head.mr), "mask": head.mask.astype(np.float32)}[kind]
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    flip[:2, 3] = head.ct.shape[0] - 1, head.ct.shape[1] - 1
    modality: Modality = "ct" if kind == "ct" else "mr"
    volume = Volume(np.ascontiguousarray(array[::-1, ::-1]), head.affine @ flip, modality)
    if image_format == "dicom" and kind != "mask":
        phantom_series(folder / person.name, volume, name=person.name, study=person.name)
    else:
        shown = (0, 1) if kind == "mask" else None
        write_nifti(folder / f"{person.name}.nii.gz", volume, DESCRIPTION, shown)


def head_images(head: Head, spacing: Spacing) -> dict[str, list[Image]]:
    """A head's axial slices, front at the top and the patient's right at the left.

    MR goes to 8 bits as scanner exports do: the head's 99.5 percentile becomes 230.
    """
    white = float(np.percentile(head.mr[head.mask], 99.5))
    mr = np.clip(head.mr * (230 / white), 0, 255)
    return {
        "ct": [Image(a, "HU", 16, spacing) for a in _slices(head.ct)],
        "mr": [Image(a, "grey", 8, spacing) for a in _slices(mr.astype(np.float32))],
        "mask": [Image(a, "grey", 8, spacing) for a in _slices(255 * head.mask.astype(np.float32))],
    }


def _slices(array: FloatArray) -> list[FloatArray]:
    """(I, J, K) in RAS -> K images (rows from front to back, columns from right to left)."""
    return [np.ascontiguousarray(array[::-1, ::-1, k].T) for k in range(array.shape[2])]

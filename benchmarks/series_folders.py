"""Small folders of DICOM files as scanners, archives and scripts leave them; for `series_readers.py` and the tests.

`FOLDERS` has a function for each: it writes a folder and returns the volumes that a reader has to find in it.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from pydicom import Dataset, dcmread, dcmwrite, uid
from pydicom.dataset import FileMetaDataset

from ctmr.imaging.volume import Volume
from ctmr.io.dicom.writer import phantom_series
from ctmr.types import Matrix, Modality

Case = Callable[[Path], list[Volume]]
Change = Callable[[Dataset, int], None]
SHAPE = (40, 36, 9)  # columns, rows, slices
SPACING = (1.5, 1.25, 4.0)


def head(modality: Modality = "ct", matrix: Matrix | None = None, shift: int = 0) -> Volume:
    """A ball with a shell in air, of whole numbers, so that files hold it exactly."""
    grids = np.meshgrid(*(np.linspace(-1, 1, side) for side in SHAPE), indexing="ij")
    far = np.sqrt(sum(grid**2 for grid in grids))
    air, brain, bone = (-1000, 0, 900) if modality == "ct" else (0, 400, 60)
    texture = np.random.default_rng(shift).integers(0, 40, SHAPE)
    array = np.where(far < 0.75, brain + texture + shift, np.where(far < 0.9, bone, air))
    return Volume(array.astype(np.float32), axial() if matrix is None else matrix, modality)


def axial(tilt: float = 0.0, rotation: NDArray[np.float64] | None = None) -> Matrix:
    """RAS+ affine of an axial series, its gantry tilted in degrees, or turned as a whole."""
    sides = np.diag([-SPACING[0], -SPACING[1], SPACING[2]])
    sides[1, 2] = np.tan(np.radians(tilt)) * SPACING[2]
    matrix = np.eye(4)
    matrix[:3, :3] = (np.eye(3) if rotation is None else rotation) @ sides
    matrix[:3, 3] = [14.0, 11.5, -16.25]
    return matrix


def turn(axis: int, degrees: float) -> NDArray[np.float64]:
    """A rotation about an axis."""
    a, b = (n for n in range(3) if n != axis)
    matrix = np.eye(3)
    matrix[[a, b], [a, b]] = np.cos(np.radians(degrees))
    matrix[a, b], matrix[b, a] = -np.sin(np.radians(degrees)), np.sin(np.radians(degrees))
    return matrix


def write(folder: Path, volume: Volume, name: str = "P1", start: str = "") -> list[Path]:
    """A series into a folder, its file names beginning with `start`."""
    scratch = folder / ".scratch"
    paths = []
    for path in phantom_series(scratch, volume, name=name, study="S1"):
        paths.append(path.rename(folder / f"{start}{path.name}"))
    scratch.rmdir()
    return paths


def change(paths: list[Path], edit: Change) -> None:
    """Edit each file; `edit(image, k)`."""
    for k, path in enumerate(paths):
        image = dcmread(path)
        edit(image, k)
        image.save_as(path)


def drop(*keywords: str) -> Change:
    """Delete tags."""

    def edit(image: Dataset, k: int) -> None:
        for keyword in keywords:
            if keyword in image:
                del image[keyword]

    return edit


def put(**tags: object) -> Change:
    """Set tags; `new` is a UID of its own for each file."""

    def edit(image: Dataset, k: int) -> None:
        for keyword, value in tags.items():
            fresh = uid.generate_uid(entropy_srcs=[keyword, str(k)])
            setattr(image, keyword, fresh if value == "new" else value)
            if keyword == "SOPInstanceUID":
                image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID

    return edit


def plain(edit: Change | None = None, volume: Volume | None = None) -> Case:
    """One series, edited."""

    def case(folder: Path) -> list[Volume]:
        truth = head() if volume is None else volume
        paths = write(folder, truth)
        if edit is not None:
            change(paths, edit)
        return [truth]

    return case


def stored(offset: int, **tags: object) -> Change:
    """Pixels that are `offset` higher than their values, and tags."""

    def edit(image: Dataset, k: int) -> None:
        pixels = np.frombuffer(image.PixelData, "<i2").astype(np.int32) + offset
        image.PixelRepresentation = int(pixels.min() < 0)
        image.PixelData = pixels.astype("<i2" if pixels.min() < 0 else "<u2").tobytes()
        image.RescaleIntercept = -offset
        put(**tags)(image, k)

    return edit


def padded(value: int) -> Change:
    """PixelPaddingValue of signed pixels."""

    def edit(image: Dataset, k: int) -> None:
        image.add_new("PixelPaddingValue", "SS", value)

    return edit


def scaled(image: Dataset, k: int) -> None:
    """A slope for each slice, as Philips has it in MR."""
    image.RescaleSlope, image.RescaleIntercept = 1 / (k + 1), 0
    pixels = np.frombuffer(image.PixelData, "<i2").astype(np.int32) * (k + 1)
    image.PixelData = pixels.astype("<i2").tobytes()


def compressed(syntax: uid.UID) -> Change:
    """Another transfer syntax, by the encoders of pydicom."""

    def edit(image: Dataset, k: int) -> None:
        image.compress(syntax, generate_instance_uid=False)

    return edit


def saved(implicit: bool, meta: bool, preamble: bool) -> Case:
    """A data set as some exports write it: without preamble, without file meta."""

    def case(folder: Path) -> list[Volume]:
        truth = head()
        for path in write(folder, truth):
            image = dcmread(path)
            syntax = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
            image.file_meta.TransferSyntaxUID = syntax
            if not meta:
                image.file_meta = FileMetaDataset()
            if not preamble:
                image.preamble = None
            dcmwrite(path, image, implicit_vr=implicit, little_endian=True)
        return [truth]

    return case


def big_endian(folder: Path) -> list[Volume]:
    """Explicit VR big endian, retired."""
    truth = head()
    for path in write(folder, truth):
        image = dcmread(path)
        pixels = np.frombuffer(image.PixelData, "<i2").astype(">i2")
        image.PixelData = pixels.tobytes()
        image.file_meta.TransferSyntaxUID = uid.ExplicitVRBigEndian
        for element in image:
            element.value = element.value  # parsed before the byte order changes
        dcmwrite(path, image, implicit_vr=False, little_endian=False)
    return [truth]


def named(*names: str) -> Case:
    """File names in an order of their own; `{}` is a number that says nothing."""

    def case(folder: Path) -> list[Volume]:
        truth = head()
        for k, path in enumerate(write(folder, truth)):
            path.rename(folder / names[0].format(k * 5 % 9))
        return [truth]

    return case


def copied(new: bool) -> Case:
    """Copies of two slices, with UIDs of their own or as they are."""

    def case(folder: Path) -> list[Volume]:
        truth = head()
        paths = write(folder, truth)
        copies = [Path(shutil.copy(path, f"{path}.copy.dcm")) for path in paths[2:4]]
        if new:
            change(copies, put(SOPInstanceUID="new"))
        return [truth]

    return case


def beside(*kinds: tuple[str, str]) -> Case:
    """A series and objects of other kinds: Modality and SOP class of each."""

    def case(folder: Path) -> list[Volume]:
        truth = head()
        first = dcmread(write(folder, truth)[0])
        for modality, kind in kinds:
            other_object(folder / f"{modality}.dcm", first, modality, kind)
        return [truth]

    return case


def other_object(path: Path, like: Dataset, modality: str, kind: str) -> None:
    """An object of the study of a slice that is no slice, with a series of its own."""
    other = Dataset()
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID"):
        setattr(other, keyword, like[keyword].value)
    other.SOPClassUID, other.Modality = kind, modality
    other.SOPInstanceUID = uid.generate_uid(entropy_srcs=[modality, kind])
    other.SeriesInstanceUID = uid.generate_uid(entropy_srcs=[modality])
    if modality in ("RTDOSE", "OT"):
        other.Rows, other.Columns, other.SamplesPerPixel = 4, 4, 1
        other.BitsAllocated, other.BitsStored, other.HighBit = 16, 16, 15
        other.PixelRepresentation, other.PhotometricInterpretation = 0, "MONOCHROME2"
        other.PixelData = bytes(32)
    other.file_meta = FileMetaDataset()
    other.file_meta.MediaStorageSOPClassUID = uid.UID(kind)
    other.file_meta.MediaStorageSOPInstanceUID = other.SOPInstanceUID
    other.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    other.save_as(path, enforce_file_format=True)


def with_files(folder: Path) -> list[Volume]:
    """A preview, a text, an empty log and a table beside slices."""
    truth = head()
    write(folder, truth)
    Pillow.new("L", (8, 8)).save(folder / "preview.jpg")
    (folder / "readme.txt").write_text("synthetic\n")
    (folder / "export.log").touch()
    (folder / "scan.json").write_text("{}")
    return [truth]


def with_localizer(folder: Path) -> list[Volume]:
    """A scout view of another plane beside slices."""
    truth = head()
    paths = write(folder, truth)
    scout = Path(shutil.copy(paths[0], folder / "scout.dcm"))
    tags = {"SeriesInstanceUID": "new", "SOPInstanceUID": "new", "SeriesNumber": 99}
    change([scout], put(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], **tags))
    change([scout], put(ImageOrientationPatient=[1, 0, 0, 0, 0, -1]))
    return [truth]


def several(*volumes: Volume, patients: bool = False) -> Case:
    """Several series in one folder, of one patient or of one each."""

    def case(folder: Path) -> list[Volume]:
        for n, volume in enumerate(volumes):
            paths = write(folder, volume, f"P{n}" if patients else "P1", f"{n}_")
            fresh = uid.generate_uid(entropy_srcs=["series", str(n)])
            change(paths, put(SeriesInstanceUID=fresh, SeriesNumber=n + 1))
            if not patients:
                for k, path in enumerate(paths):
                    change([path], put(SOPInstanceUID=f"2.25.{n + 1}{k}"))
        return list(volumes)

    return case


def without(*gone: int) -> Case:
    """Slices that are missing: the others are given their mean step, as SimpleITK does."""

    def case(folder: Path) -> list[Volume]:
        truth = head()
        paths = write(folder, truth)
        for k in gone:
            paths[k].unlink()
        kept = np.delete(truth.array, gone, axis=2)
        matrix = truth.affine.copy()
        matrix[:3, 2] *= (SHAPE[2] - 1) / (kept.shape[2] - 1)
        return [Volume(kept, matrix, "ct")]

    return case


def rounded(image: Dataset, k: int) -> None:
    """Positions with two decimals, as some anonymisers leave them."""
    image.ImagePositionPatient = [round(float(v), 2) for v in image.ImagePositionPatient]


def blank(image: Dataset, k: int) -> None:
    """Values that are there and empty."""
    for keyword in ("PatientID", "FrameOfReferenceUID", "SliceThickness", "SeriesNumber"):
        setattr(image, keyword, "" if keyword == "PatientID" else None)


_RT = "1.2.840.10008.5.1.4.1.1.481."
_ALL_NEW = {"SeriesInstanceUID": "new", "StudyInstanceUID": "new", "FrameOfReferenceUID": "new"}


def _sound() -> Iterator[tuple[str, Case]]:
    yield "plain CT", plain()
    yield "plain MR", plain(volume=head("mr"))
    yield "oblique MR", plain(volume=head("mr", axial(rotation=turn(0, 20) @ turn(2, -13))))
    yield "coronal MR", plain(volume=head("mr", axial(rotation=turn(0, 90))))
    yield "sagittal MR", plain(volume=head("mr", axial(rotation=turn(1, 90))))
    yield "tilted gantry", plain(volume=head(matrix=axial(tilt=15)))
    yield "names in another order", named("IM{:04d}.dcm")
    yield "names without suffix", named("{}")
    yield "instance numbers all 1", plain(put(InstanceNumber=1))
    yield "implicit little endian", saved(True, True, True)
    yield "no preamble, no file meta, implicit", saved(True, False, False)
    yield "no preamble, no file meta, explicit", saved(False, False, False)
    yield "preamble, no file meta", saved(True, False, True)
    yield "big endian", big_endian
    yield "RLE", plain(compressed(uid.RLELossless))
    yield "JPEG 2000", plain(compressed(uid.JPEG2000Lossless))
    yield "unsigned, intercept -1024", plain(stored(1024))
    yield "slope for each slice", plain(scaled, head("mr"))


def _lean() -> Iterator[tuple[str, Case]]:
    yield "no SOPClassUID", plain(drop("SOPClassUID"))
    yield "no FrameOfReferenceUID", plain(drop("FrameOfReferenceUID"))
    yield "no SliceThickness", plain(drop("SliceThickness"))
    yield "no PatientID, no PatientName", plain(drop("PatientID", "PatientName"))
    yield "no RescaleType", plain(drop("RescaleType"))
    yield "no SOPInstanceUID", plain(drop("SOPInstanceUID"))
    yield "no StudyInstanceUID", plain(drop("StudyInstanceUID"))
    yield "no ImageType, no InstanceNumber", plain(drop("ImageType", "InstanceNumber"))
    yield "no Modality", plain(drop("Modality"))
    yield "blank values", plain(blank)
    yield "SeriesInstanceUID new for each file", plain(put(SeriesInstanceUID="new"))
    yield "StudyInstanceUID new for each file", plain(put(StudyInstanceUID="new"))
    yield "all UIDs new for each file", plain(put(SOPInstanceUID="new", **_ALL_NEW))
    yield "one SOPInstanceUID for all files", plain(put(SOPInstanceUID="2.25.7"))
    yield "copies of slices", copied(False)
    yield "copies with new UIDs", copied(True)


def _mixed() -> Iterator[tuple[str, Case]]:
    yield "radiotherapy objects", beside(("RTSTRUCT", _RT + "3"), ("RTPLAN", _RT + "5"))
    yield "dose grid", beside(("RTDOSE", _RT + "2"))
    yield "dose report", beside(("SR", "1.2.840.10008.5.1.4.1.1.88.67"))
    yield "presentation state", beside(("PR", "1.2.840.10008.5.1.4.1.1.11.1"))
    yield "secondary capture", beside(("OT", uid.SecondaryCaptureImageStorage))
    yield "preview, text and log", with_files
    yield "localizer", with_localizer
    yield "two reconstructions", several(head(), head(shift=9))
    yield "CT and MR", several(head(), head("mr"))
    yield "three patients", several(head(), head(shift=3), head(shift=6), patients=True)
    yield "a slice is missing", without(4)
    yield "two thicknesses", without(5, 7)
    yield "positions of two decimals", plain(rounded)
    yield "padding 0 in signed HU", plain(padded(0))
    yield "padding that nothing has", plain(padded(-30000))
    yield "no rescale", plain(drop("RescaleSlope", "RescaleIntercept"))
    yield "RescaleType US", plain(put(RescaleType="US"))
    yield "SOP class of a capture", plain(put(SOPClassUID=uid.SecondaryCaptureImageStorage))
    yield "CT with the SOP class of MR", plain(put(SOPClassUID=uid.MRImageStorage))
    yield "SpacingBetweenSlices wrong", plain(put(SpacingBetweenSlices=9))


FOLDERS: dict[str, Case] = dict([*_sound(), *_lean(), *_mixed()])

"""A volume -> a DICOM series: what a synthetic image says of itself, and what it keeps of its source."""

import io
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmwrite, uid
from pydicom.datadict import dictionary_VR
from pydicom.dataset import FileMetaDataset
from pydicom.valuerep import format_number_as_ds

from ctmr.imaging.volume import Volume
from ctmr.io.dicom.header import PATIENT, PLACE, STUDY, new_uid, text_of
from ctmr.io.dicom.series import Series
from ctmr.system.files import write_bytes
from ctmr.system.privacy import quiet
from ctmr.types import Modality

SERIES_NUMBER = 9000  # added to that of the source
_MAX_SERIES_NUMBER = 2**31 - 1
_INT16 = (-32768, 32767)
_CLASSES: dict[Modality, uid.UID] = {"ct": uid.CTImageStorage, "mr": uid.MRImageStorage}
_NOTE = "NOT FOR DIAGNOSTIC USE"

# Type 2 attributes of the CT and MR image: empty where the source has none.
_EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"),
    *("AccessionNumber", "ReferringPhysicianName", "StudyID", "PositionReferenceIndicator"),
    *("PatientPosition", "SliceThickness", "AcquisitionNumber"),
)
_EMPTY_MR = ("ScanOptions", "EchoTime", "RepetitionTime", "EchoTrainLength")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Derivation:
    """How a synthetic series came about; the same one gives the same files, byte for byte."""

    model_sha256: str
    """Hash of the model, hexadecimal."""
    direction: Literal["ct-to-mr", "mr-to-ct"]
    """Its part after `to` is the modality that is written."""
    version: str
    """Version of ctmr."""
    options: str
    """Whatever else changes the result; part of the new UIDs."""

    @property
    def modality(self) -> Modality:
        """What the result shows."""
        return "mr" if self.direction == "ct-to-mr" else "ct"


def write_series(folder: Path, volume: Volume, like: Series, about: Derivation) -> list[Path]:
    """Write a synthetic series onto the slices of its source: same patient, study and geometry, new series.

    Only the tags of `dicom_file.PATIENT`, `STUDY` and `PLACE` are copied, as they are; each slice keeps its own position
    and orientation, so that tilted and uneven series come back exactly. Values are rounded half to even, to int16.

    Args:
        folder: Where `slice_0001.dcm` and so on go, in the order of `like`.
        volume: HU or MR units, on the grid of `like`.
        like: The source.
        about: What the files say of their origin.

    Raises:
        ValueError: If the shapes differ, or a value is not finite.
        OutputError: If a file cannot be written.
    """
    if volume.array.shape != like.volume.array.shape:
        raise ValueError(
            f"volume must have the shape of its source: got {volume.array.shape} and"
            f" {like.volume.array.shape}"
        )
    window = _window(volume, about.modality)
    if like.part:  # the volumes of one series become series of their own
        about = replace(about, options=f"{about.options} part {like.part}")
    paths = []
    for k, source in enumerate(like.headers):
        out = _copied(source)
        _describe(out, source, about, k)
        _add_pixels(out, _int16(volume.array[:, :, k]), about.modality, window)
        paths.append(_save(folder, k, out))
    return paths


def phantom_series(folder: Path, volume: Volume, *, name: str, study: str) -> list[Path]:
    """Write a synthetic head as if a scanner had made it, marked SyntheticData YES.

    The CT and the MR of one `name` and `study` share the study and the frame of reference.

    Args:
        folder: Where `slice_0001.dcm` and so on go, K ascending.
        volume: CT in HU or MR; I and J perpendicular, K may be tilted.
        name: PatientName (0010,0010) and PatientID (0010,0020), ASCII.
        study: Any text that tells the studies of one patient apart.

    Raises:
        ValueError: If the modality is unknown, I and J are not perpendicular, or a value is not finite.
        OutputError: If a file cannot be written.
    """
    if volume.modality is None:
        raise ValueError(f"volume must be CT or MR: got {volume!r}")
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    across, down, _ = volume.spacing_mm
    row, column = lps[:3, 0] / across, lps[:3, 1] / down
    if abs(row @ column) > 1e-4:
        raise ValueError(f"axes I and J must be perpendicular: got {volume.affine!r}")
    window = _window(volume, volume.modality)
    paths = []
    for k in range(volume.array.shape[2]):
        out = _original(volume.modality, name, study, k)
        out.ImagePositionPatient = _numbers(*(lps[:3, 3] + k * lps[:3, 2]))
        out.ImageOrientationPatient = _numbers(*row, *column)
        out.PixelSpacing = _numbers(down, across)
        out.SliceThickness = _numbers(abs(float(np.cross(row, column) @ lps[:3, 2])))[0]
        out.BodyPartExamined, out.PatientPosition = "HEAD", "HFS"
        _complete(out, volume.modality, k)
        _add_pixels(out, _int16(volume.array[:, :, k]), volume.modality, window)
        paths.append(_save(folder, k, out))
    return paths


def _original(modality: Modality, name: str, study: str, k: int) -> Dataset:
    """Patient, study and series of a slice of a phantom."""
    out = Dataset()
    out.PatientName = out.PatientID = name
    out.StudyInstanceUID = new_uid("study", name, study)
    out.FrameOfReferenceUID = new_uid("frame", name, study)
    out.SeriesInstanceUID = new_uid("series", name, study, modality)
    out.SOPInstanceUID = new_uid("image", name, study, modality, str(k))
    out.SeriesNumber = 1 if modality == "ct" else 2
    out.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    out.SeriesDescription = f"Synthetic head, {modality.upper()}"
    out.Manufacturer = "ctmr phantom"
    return out


def _copied(source: Dataset) -> Dataset:
    """Patient, study and place of a source slice; a text is copied as its bytes."""
    out = Dataset()
    for keyword in (*PATIENT, *STUDY, *PLACE):
        if keyword in source:
            out[keyword] = source.get_item(keyword)
            parts = text_of(source, keyword).split("\\")
            if dictionary_VR(keyword) == "DS" and not all(map(_is_number, parts)):
                del out[keyword]  # of those checked none, so an optional one; it may be any text
            elif dictionary_VR(keyword) == "DS" and max(map(len, parts)) > 16:  # not valid
                setattr(out, keyword, _numbers(*map(float, parts)))
    for keyword in ("BurnedInAnnotation", "PatientIdentityRemoved", "DeidentificationMethod"):
        if not text_of(source, keyword):
            out.pop(keyword, None)
    if text_of(source, "PatientIdentityRemoved") == "YES" and "DeidentificationMethod" not in out:
        out.DeidentificationMethod = "not stated by the source"  # type 1C
    if text_of(source, "LossyImageCompression") != "01":
        for keyword in ("", "Ratio", "Method"):
            out.pop(f"LossyImageCompression{keyword}", None)
    if text_of(source, "Laterality") not in ("L", "R"):
        out.pop("Laterality", None)
        if not text_of(source, "BodyPartExamined"):  # which might be one of a pair: type 2C
            out.Laterality = ""
    return out


def _describe(out: Dataset, source: Dataset, about: Derivation, k: int) -> None:
    """Say that the slice is synthetic, from what and by what (DICOM PS3.3 C.7.6.1, C.7.5.1, C.12.1)."""
    target = about.modality.upper()
    origin = "MR" if target == "CT" else "CT"
    key = (about.model_sha256, about.direction, about.options)
    series = text_of(source, "SeriesInstanceUID")
    out.SeriesInstanceUID = new_uid(series, *key)
    identity = text_of(source, "SOPInstanceUID")
    frame = text_of(source, "ReferencedFrameNumber")
    names = [identity] if identity else [series, str(k)]
    out.SOPInstanceUID = new_uid(*names, *key, *([frame] if frame else []))
    if "FrameOfReferenceUID" not in source:
        out.FrameOfReferenceUID = new_uid("frame", series)
    out.SeriesNumber = _series_number(text_of(source, "SeriesNumber"))
    out.ImageType = ["DERIVED", "SECONDARY", "AXIAL", "SYNTHETIC"]
    out.SeriesDescription = f"SYNTHETIC {target} - {_NOTE}"
    out.ImageComments = f"Synthetic {target} computed from {origin} by ctmr. {_NOTE}."
    out.DerivationDescription = (
        f"{target} synthesised from {origin} by ctmr {about.version},"
        f" model sha256 {about.model_sha256}; {_NOTE}"
    )
    meaning = "Cross-modality synthesis by a neural network"
    out.DerivationCodeSequence = [_code("SYNTH", "99CTMR", meaning)]
    if identity:  # an image without one cannot be referred to
        out.SourceImageSequence = [_source_image(source)]
    out.Manufacturer = "ctmr"
    out.ManufacturerModelName = f"ctmr {about.direction}"
    out.SoftwareVersions = about.version
    tool = Dataset()
    tool.PurposeOfReferenceCodeSequence = [_code("109102", "DCM", "Processing Equipment")]
    tool.Manufacturer, tool.ManufacturerModelName = out.Manufacturer, out.ManufacturerModelName
    tool.SoftwareVersions = out.SoftwareVersions
    tool.ContributionDescription = f"Computed a synthetic {target} from {origin}"
    out.ContributingEquipmentSequence = [tool]
    _complete(out, about.modality, k)


def _source_image(source: Dataset) -> Dataset:
    """The reference to the image that a slice was computed from."""
    image = Dataset()
    image.ReferencedSOPClassUID = text_of(source, "SOPClassUID")
    image.ReferencedSOPInstanceUID = text_of(source, "SOPInstanceUID")
    if "ReferencedFrameNumber" in source:  # of an enhanced multi-frame source
        image.ReferencedFrameNumber = int(text_of(source, "ReferencedFrameNumber"))
    image.SpatialLocationsPreserved = "YES"
    purpose = _code("121322", "DCM", "Source image for image processing operation")
    image.PurposeOfReferenceCodeSequence = [purpose]
    return image


def _complete(out: Dataset, modality: Modality, k: int) -> None:
    """Class, number, and every attribute that the CT or MR image has to have (DICOM PS3.3 A.3, A.4)."""
    out.SOPClassUID = _CLASSES[modality]
    out.Modality = modality.upper()
    out.InstanceNumber = k + 1
    out.SyntheticData = "YES"
    for keyword in (*_EMPTY, *(_EMPTY_MR if modality == "mr" else ("KVP",))):
        if keyword not in out:
            setattr(out, keyword, "")
    if modality == "mr":
        out.ScanningSequence = "RM"  # research mode
        out.SequenceVariant = "NONE"
        out.MRAcquisitionType = ""


def _add_pixels(
    out: Dataset, pixels: NDArray[np.int16], modality: Modality, window: Sequence[Sequence[int]]
) -> None:
    """Add the pixels (rows, columns), their layout and, of a CT, their unit."""
    out.SamplesPerPixel = 1
    out.PhotometricInterpretation = "MONOCHROME2"
    out.Rows, out.Columns = pixels.shape
    out.BitsAllocated = out.BitsStored = 16
    out.HighBit = 15
    out.PixelRepresentation = 1
    if modality == "ct":
        out.RescaleSlope, out.RescaleIntercept, out.RescaleType = 1, 0, "HU"
        out.WindowCenterWidthExplanation = ["BRAIN", "BONE"]
    out.WindowCenter, out.WindowWidth = (list(values) for values in window)
    out.add_new("PixelData", "OW", pixels.astype("<i2").tobytes())


def _window(volume: Volume, modality: Modality) -> tuple[list[int], list[int]]:
    """Centres and widths of the display windows: brain and bone of a CT, the middle 98 % of the values of an MR."""
    if not np.isfinite(volume.array).all():
        raise ValueError("values must be finite: got NaN or infinity")
    clipped = int(((volume.array < _INT16[0]) | (volume.array > _INT16[1])).sum())
    if clipped:
        logger.warning("%d voxels beyond 16 bits clipped", clipped)
    if modality == "ct":
        return [40, 480], [80, 2500]
    low, high = np.percentile(volume.array, (1, 99))
    return [round((low + high) / 2)], [max(1, round(high - low))]


def _int16(plane: NDArray[np.float32]) -> NDArray[np.int16]:
    """(I, J) -> (rows, columns), rounded half to even."""
    return np.ascontiguousarray(np.clip(np.rint(plane), *_INT16).T.astype(np.int16))


def _save(folder: Path, k: int, out: Dataset) -> Path:
    """Write a slice, explicit VR little endian after an empty preamble."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = out.SOPClassUID
    meta.MediaStorageSOPInstanceUID = out.SOPInstanceUID
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    meta.ImplementationClassUID = uid.UID(new_uid("ctmr"))
    meta.ImplementationVersionName = "CTMR"
    out.file_meta = meta
    content = io.BytesIO()
    with quiet():
        out.set_original_encoding(False, True, out._character_set)  # bytes stay as they are
        dcmwrite(content, out, enforce_file_format=True)
    path = folder / f"slice_{k + 1:04d}.dcm"
    write_bytes(path, content.getvalue())
    return path


def _series_number(text: str) -> int:
    number = int(text) if text.lstrip("+-").isdecimal() else 0
    return SERIES_NUMBER + (number if 0 <= number <= _MAX_SERIES_NUMBER - SERIES_NUMBER else 0)


def _is_number(text: str) -> bool:
    return re.fullmatch(r" *([+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,2})? *)?", text) is not None


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


def _numbers(*values: float) -> list[str]:
    """Decimal strings of at most 16 characters."""
    return [format_number_as_ds(float(value)) for value in values]

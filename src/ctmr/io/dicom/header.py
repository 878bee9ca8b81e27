"""One DICOM file of a slice: what is read of its header, and that no text of it leaks."""

import contextlib
import hashlib
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread, uid
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset

from ctmr.errors import CtmrError, DataError, ResourceError
from ctmr.io.dicom.kinds import modality_of
from ctmr.io.dicom.recognise import MAX_TEXT
from ctmr.system.privacy import quiet

MAX_FILE_BYTES = 1_000_000_000
SAME_PLACE_MM = 0.01  # two slices that are nearer to each other lie at one place
COPY_AGAIN = (
    "copy the file from the archive again; if that is the same, move it away and give --irregular"
)
NATIVE = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian)

# The only header values that ever stay in memory; `dicom_write` says which of them it copies.
PATIENT = (
    *("SpecificCharacterSet", "PatientName", "PatientID", "IssuerOfPatientID"),
    *("PatientBirthDate", "PatientSex", "PatientIdentityRemoved", "DeidentificationMethod"),
)
STUDY = (
    *("StudyInstanceUID", "StudyDate", "StudyTime", "AccessionNumber"),
    *("ReferringPhysicianName", "StudyID", "StudyDescription"),
)
PLACE = (
    *("FrameOfReferenceUID", "PositionReferenceIndicator", "PatientPosition", "Laterality"),
    *("BodyPartExamined", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
    *("SliceThickness", "AcquisitionNumber", "AcquisitionDate"),
    *("AcquisitionTime", "ContentDate", "ContentTime", "BurnedInAnnotation"),
    "GantryDetectorTilt",
    *("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"),
)
_SOURCE = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "Modality")
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
LAYOUT = (
    *("SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated"),
    *("BitsStored", "HighBit", "PixelRepresentation"),
)
GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
_VALUES = (
    *("SOPClassUID", "Modality", "ImageType", "NumberOfFrames", "PatientID"),
    *("RescaleSlope", "RescaleIntercept", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *(*UIDS, *LAYOUT, *GEOMETRY),
)
# Values that may be anything: without them nothing of a slice is unknown but what it is called.
_BESIDE = (
    *("SeriesNumber", "SliceThickness", "SpacingBetweenSlices", "RescaleType"),
    *("EchoTime", "RepetitionTime", "InversionTime", "ScanningSequence", "DiffusionBValue"),
    *("EchoNumbers", "TemporalPositionIdentifier", "AcquisitionNumber"),
    *("AcquisitionContrast", "EchoPulseSequence"),
    *("BurnedInAnnotation", "LossyImageCompressionRatio"),
)

# All that pydicom and its decoders raise on a damaged file; their texts hold header values.
_PARSE_ERRORS = (
    *(InvalidDicomError, BytesLengthException, struct.error, EOFError, OSError),
    *(AttributeError, ValueError, TypeError, LookupError, RuntimeError, ArithmeticError),
)


class SliceFile(NamedTuple):
    """One slice: what is copied of its header, as raw bytes, and what is read of it, as values."""

    path: Path
    syntax: uid.UID
    header: Dataset
    values: dict[str, Any]
    frame: int | None = None
    """Which frame of an enhanced multi-frame file it is; None: the file is the slice."""
    read: Callable[[], Dataset] | None = None
    """What returns the pixels of all frames of that file; it is read once."""

    def floats(self, keyword: str) -> NDArray[np.float64]:
        """A value of several numbers."""
        return np.asarray(self.values[keyword], np.float64).reshape(-1)

    @property
    def normal(self) -> NDArray[np.float64]:
        """The unit vector out of the slice, LPS (DICOM PS3.3 C.7.6.2.1.1)."""
        row, column = np.split(self.floats("ImageOrientationPatient"), 2)
        normal = np.cross(row, column)
        return np.asarray(normal / np.linalg.norm(normal))

    @property
    def rescale(self) -> tuple[float, float]:
        """RescaleSlope (0028,1053) and RescaleIntercept (0028,1052)."""
        slope, intercept = (
            self.values.get("RescaleSlope", 1),
            self.values.get("RescaleIntercept", 0),
        )
        return float(slope), float(intercept)

    def along(self, normal: NDArray[np.float64]) -> float:
        """Where the slice lies along a normal, mm."""
        return float(self.floats("ImagePositionPatient") @ normal)


def read_header(path: Path) -> SliceFile:
    """A file without its pixels; nothing is decompressed.

    Raises:
        DataError: If it is too large, deflated or damaged.
    """
    with parsing(path):
        size = path.stat().st_size
    what = f"expected a file of at most {MAX_FILE_BYTES} bytes: found {size}"
    require(size <= MAX_FILE_BYTES, what, path, "leave it out")
    with parsing(path):
        said = _syntax_said(path)
        deflated = said == uid.DeflatedExplicitVRLittleEndian
    what = "expected a transfer syntax that is not deflated: found 1.2.840.10008.1.2.1.99"
    require(not deflated, what, path, "decompress it with `dcmconv +te` of dcmtk")
    header = Dataset()
    with parsing(path):
        tags = {*_VALUES, *_BESIDE, *_SOURCE, *PATIENT, *STUDY, *PLACE}
        # `is_dicom` knows a file without preamble by its first elements.
        found = dcmread(path, stop_before_pixels=True, specific_tags=list(tags), force=True)
        copied = {*_SOURCE, *PATIENT, *STUDY, *PLACE} & set(found.dir())
        items = {keyword: found.get_item(keyword) for keyword in copied}  # raw until it is read
        values = {keyword: found[keyword].value for keyword in _VALUES if keyword in found}
        values.update(_beside(found))
        values = {k: v for k, v in values.items() if v not in (None, "")}
        syntax = said or _syntax_found(found)
        if modality_of(values) is not None:
            for keyword, item in items.items():
                header[keyword] = as_bytes(item, keyword)
    return SliceFile(path, syntax, header, values)


def _syntax_said(path: Path) -> uid.UID | None:
    """TransferSyntaxUID (0002,0010), None where there is none; nothing behind the file meta is read."""
    with path.open("rb") as file:
        file.seek(132 if file.read(132)[128:] == b"DICM" else 0)
        meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    text = str(meta.get("TransferSyntaxUID", ""))
    return uid.UID(text) if text else None


def _syntax_found(found: Dataset) -> uid.UID:
    """The syntax that a data set was read by, where it says none: its pixels are not compressed."""
    implicit, little = found.original_encoding
    if not little:
        return uid.ExplicitVRBigEndian
    return uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian


def _beside(found: Dataset) -> dict[str, Any]:
    """The values that may be anything, without those that are."""
    values = {}
    for keyword in _BESIDE:
        with contextlib.suppress(*_PARSE_ERRORS):
            if keyword in found:
                values[keyword] = found[keyword].value
    return values


def as_bytes(item: DataElement | RawDataElement, keyword: str) -> DataElement | RawDataElement:
    """A text of the header as its bytes, so that a copy of it is exact."""
    if keyword == "SpecificCharacterSet":
        return item
    if isinstance(item, DataElement) and not item.is_empty:  # a sequence
        raise ValueError
    content = (item.value if isinstance(item, RawDataElement) else b"") or b""
    if len(content) > MAX_TEXT:
        raise ValueError
    vr = dictionary_VR(item.tag)
    return RawDataElement(item.tag, vr, len(content), content, 0, False, True)


def check_uids(image: SliceFile) -> None:
    """Refuse UIDs that are none; they may be missing.

    Raises:
        DataError: Naming the tag, never the value.
    """
    for keyword in UIDS:
        value = str(image.values.get(keyword, "0"))
        valid = len(value) <= 64 and re.fullmatch(r"[0-9]+(\.[0-9]+)*", value)
        what = f"expected a valid {tagged(keyword)}: found an invalid one"
        fix = "export the series again, or convert it to NIfTI, for instance with dcm2niix"
        require(bool(valid), what, image.path, fix)


def text_of(header: Dataset, keyword: str) -> str:
    """A value of a header as text, of whatever bytes it is; empty if there is none."""
    item = header.get_item(keyword) if keyword in header else None
    raw = getattr(item, "value", "") or ""
    return (raw.decode("latin-1") if isinstance(raw, bytes) else str(raw)).strip(" \0")


def new_uid(*parts: str) -> str:
    """A UID by hash: `2.25.` and 128 bits (DICOM PS3.5 B.2)."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def hashed(text: str) -> str:
    """A short hash, to tell identifiers apart without showing them."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def tagged(keyword: str) -> str:
    """A keyword with its tag, `ImagePositionPatient (0020,0032)`."""
    tag = tag_for_keyword(keyword) or 0
    return f"{keyword} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


def require(met: bool, what: str, path: Path, fix: str, error: type[CtmrError] = DataError) -> None:
    """Raise the error, of what was expected and found in a file or folder, unless it is met."""
    if not met:
        raise error(what, file=path, fix=fix)


@contextlib.contextmanager
def parsing(path: Path) -> Iterator[None]:
    """Turn what pydicom says of a damaged file, which may hold names, into an error that holds none."""
    with quiet():
        try:
            yield
        except _PARSE_ERRORS as error:
            raise DataError(
                f"expected an intact DICOM file: found {type(error).__name__} while reading it",
                file=path,
                fix=COPY_AGAIN,
            ) from None  # the cause holds header values
        except MemoryError:  # a damaged length in it asks for any number of bytes, too
            raise ResourceError(
                "not enough memory to read it", file=path, fix=f"free memory, or {COPY_AGAIN}"
            ) from None

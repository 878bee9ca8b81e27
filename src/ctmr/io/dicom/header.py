"""One DICOM file of a slice: which files are DICOM, what is read of their headers, and that no text of it leaks."""

import contextlib
import hashlib
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
from pydicom.filereader import read_file_meta_info

from ctmr.errors import CtmrError, DataError, ResourceError
from ctmr.system.privacy import quiet

MAX_FILE_BYTES = 1_000_000_000
MAX_TEXT = 1024  # bytes of one header value
COPY_AGAIN = "copy the series from the archive again"
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
    *("SOPClassUID", "Modality", "ImageType", "NumberOfFrames", "PatientID", "SliceThickness"),
    *("RescaleSlope", "RescaleIntercept", "RescaleType", "BurnedInAnnotation"),
    "LossyImageCompressionRatio",
    *("PixelPaddingValue", "PixelPaddingRangeLimit", *UIDS, *LAYOUT, *GEOMETRY),
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
    classic: str | None = None
    """The SOP class of single-frame files of its kind."""

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


def is_dicom(path: Path) -> bool:
    """Whether it is a regular file with `DICM` at byte 128; an index of other files (DICOMDIR) is none."""
    start = start_of(path)
    return start[128:132] == b"DICM" and uid.MediaStorageDirectoryStorage.encode() not in start


def start_of(path: Path) -> bytes:
    """The first 512 bytes of a regular file; none of anything else."""
    try:
        if not path.is_file():  # before it is opened: a FIFO would block
            return b""
        with path.open("rb") as file:
            return file.read(512)
    except OSError as error:
        raise DataError(
            f"expected a readable file: found {error.strerror}", file=path, fix="check permissions"
        ) from error


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
        syntax = uid.UID(str(read_file_meta_info(path).TransferSyntaxUID))
        deflated = syntax == uid.DeflatedExplicitVRLittleEndian
    what = "expected a transfer syntax that is not deflated: found 1.2.840.10008.1.2.1.99"
    require(not deflated, what, path, "decompress it with `dcmconv +te` of dcmtk")
    header = Dataset()
    with parsing(path):
        tags = {*_VALUES, *_SOURCE, *PATIENT, *STUDY, *PLACE}
        found = dcmread(path, stop_before_pixels=True, specific_tags=list(tags))
        for keyword in {*_SOURCE, *PATIENT, *STUDY, *PLACE} & set(found.dir()):
            header[keyword] = as_bytes(found, keyword)
        values = {keyword: found[keyword].value for keyword in _VALUES if keyword in found}
    return SliceFile(path, syntax, header, {k: v for k, v in values.items() if v not in (None, "")})


def as_bytes(found: Dataset, keyword: str) -> DataElement | RawDataElement:
    """A text of the header as its bytes, so that a copy of it is exact."""
    item: DataElement | RawDataElement = found.get_item(keyword)
    if keyword == "SpecificCharacterSet":
        return item
    if isinstance(item, DataElement) and not item.is_empty:  # a sequence
        raise ValueError
    content = (item.value if isinstance(item, RawDataElement) else b"") or b""
    if len(content) > MAX_TEXT:
        raise ValueError
    vr = dictionary_VR(item.tag)
    return RawDataElement(item.tag, vr, len(content), content, 0, False, True)


def text_of(header: Dataset, keyword: str) -> str:
    """A value of a header as text, of whatever bytes it is; empty if there is none."""
    item = header.get_item(keyword) if keyword in header else None
    raw = getattr(item, "value", "") or ""
    return (raw.decode("latin-1") if isinstance(raw, bytes) else str(raw)).strip(" \0")


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

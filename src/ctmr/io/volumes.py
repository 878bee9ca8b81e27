"""Which files are volumes by their suffix, and what reads and writes each: a row a format."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ctmr.errors import OutputError
from ctmr.imaging.volume import Volume
from ctmr.io.metaimage import metaimage_bytes, read_metaimage
from ctmr.io.mgh import mgh_bytes, read_mgh
from ctmr.io.nifti import nifti_bytes, read_nifti
from ctmr.io.nrrd import nrrd_bytes, read_nrrd
from ctmr.io.voxels import Geometry


class Format(NamedTuple):
    """How a file is read, and the bytes of one with a description; None for what is read only to say why not."""

    read: Callable[..., Volume]
    content: Callable[[Path, Volume, str], bytes] | None


_NIFTI = Format(read_nifti, nifti_bytes)
_MGH = Format(read_mgh, mgh_bytes)
FORMATS: dict[str, Format] = {
    ".nii.gz": _NIFTI,
    ".nii": _NIFTI,
    ".mha": Format(read_metaimage, lambda _, volume, text: metaimage_bytes(volume, text)),
    ".nrrd": Format(read_nrrd, lambda _, volume, text: nrrd_bytes(volume, text)),
    ".mgz": _MGH,
    ".mgh": _MGH,
    ".mhd": Format(read_metaimage, None),
    ".nhdr": Format(read_nrrd, None),
}
WRITTEN = tuple(suffix for suffix, format in FORMATS.items() if format.content is not None)


def volume_suffix(path: Path) -> str | None:
    """The suffix of a volume file, in lower case; None for another file."""
    name = path.name.lower()
    return next((suffix for suffix in FORMATS if name.endswith(suffix)), None)


def read_volume_file(path: Path, *, geometry: Geometry | None = None) -> Volume:
    """The volume in a file, of unknown modality.

    Args:
        path: A name that ends in one of `FORMATS`.
        geometry: What to believe where the header contradicts itself or says nothing; see `nifti.read_nifti`.

    Raises:
        DataError: If it is not an intact file of one 3-D volume of finite real numbers.
        SafetyError: If the header leaves open where left and right are, or contradicts itself.
        UsageError: If `geometry` does not fit what the header says.
    """
    suffix = volume_suffix(path)
    if suffix is None:
        raise ValueError(f"path must end in {', '.join(FORMATS)}: got {path.name!r}")
    volume: Volume = FORMATS[suffix].read(path, geometry=geometry)
    return volume


def volume_bytes(path: Path, volume: Volume, description: str) -> bytes:
    """The bytes of a file in the format of the suffix: a CT as int16 HU, rounded half to even and clipped; an MR as float32.

    Raises:
        OutputError: If no volume is written with that suffix.
    """
    suffix = volume_suffix(path)
    content = FORMATS[suffix].content if suffix is not None else None
    if content is None:
        raise OutputError(
            f"expected {', '.join(WRITTEN)}: found {path.suffix!r}", file=path, fix="rename it"
        )
    return content(path, volume, description)

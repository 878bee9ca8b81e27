"""What a user vouches for where a scan says too little or contradicts itself: one set of options for every command."""

from dataclasses import asdict, dataclass
from typing import Any

from ctmr.imaging.ct_values import window_of
from ctmr.io.voxels import Geometry


@dataclass(frozen=True)
class Reading:
    """How scans are read.

    Attributes:
        geometry: Orientation of volumes whose header contradicts itself or has none (`ctmr.io.nifti.read_nifti`).
        irregular: Read DICOM series with missing or unevenly spaced slices too.
        anyway: Take scans that look like another modality, or like no head, too.
        series: Of a folder with several DICOM series, those with these numbers or UIDs, or `all`; empty: one is chosen.
        ct_values: What the values of a CT are: `hu`, `hu+1024`, `grey`, or `LOW:HIGH`, the window in HU that the grey range
            of the file stands for. None: HU, and a scan whose values are not HU is refused.

    Raises:
        UsageError: If `ct_values` is none of these.
    """

    geometry: Geometry | None = None
    irregular: bool = False
    anyway: bool = False
    series: tuple[str, ...] = ()
    ct_values: str | None = None

    def __post_init__(self) -> None:
        if self.ct_values is not None:
            window_of(self.ct_values)

    def vouched(self) -> dict[str, Any]:
        """The options that are set, for a store or a sidecar."""
        return {name: value for name, value in asdict(self).items() if value}


DEFAULT = Reading()

"""What a user vouches for where a scan says too little or contradicts itself: one set of options for every command."""

from dataclasses import asdict, dataclass
from typing import Any

from ctmr.errors import UsageError
from ctmr.io.nifti import Geometry

CT_VALUES = ("hu", "hu+1024", "grey")


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
        if self.ct_values not in (None, *CT_VALUES):
            self.ct_window  # noqa: B018  it raises

    @property
    def ct_window(self) -> tuple[float, float] | None:
        """(low, high) in HU where `ct_values` is a window."""
        if self.ct_values in (None, *CT_VALUES):
            return None
        try:
            low, high = map(float, str(self.ct_values).split(":"))
        except ValueError:
            low = high = 0.0
        if not -10_000 <= low < high <= 100_000:
            raise UsageError(
                f"expected --ct-values {', '.join(CT_VALUES)} or LOW:HIGH in HU: found {self.ct_values!r}",
                fix="write for example --ct-values 0:80",
            )
        return low, high

    def vouched(self) -> dict[str, Any]:
        """The options that are set, for a store or a sidecar."""
        return {name: value for name, value in asdict(self).items() if value}

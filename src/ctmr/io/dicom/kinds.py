"""What a DICOM file shows, by its header alone: a scan or another object, a localizer, a derived image, its weighting."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydicom import uid

from ctmr.types import Modality

Kind = Literal["scan", "localizer", "derived", "synthetic"]
Weighting = Literal["t1", "t2", "flair", "pd", "t2star", "diffusion"]

CLASSES: dict[str, Modality] = {uid.CTImageStorage: "ct", uid.MRImageStorage: "mr"}
ENHANCED: dict[str, Modality] = {
    uid.EnhancedCTImageStorage: "ct",
    uid.LegacyConvertedEnhancedCTImageStorage: "ct",
    uid.EnhancedMRImageStorage: "mr",
    uid.LegacyConvertedEnhancedMRImageStorage: "mr",
}
_NAMES: dict[str, Modality] = {"CT": "ct", "MR": "mr"}
_ROOT = "1.2.840.10008.5.1.4.1.1."

# Why a DICOM object is left out, by SOP class (DICOM PS3.4 B.5) and, where there is none, by Modality (0008,0060).
_BY_CLASS = {
    "481.": "radiotherapy objects",
    "88.": "reports",
    "11.": "presentation states",
    "7.": "secondary captures",
    "66.": "segmentations and registrations",
    "104.": "documents",
}
_BY_MODALITY = {
    **dict.fromkeys(
        ("RTSTRUCT", "RTPLAN", "RTDOSE", "RTIMAGE", "RTRECORD"), "radiotherapy objects"
    ),
    **dict.fromkeys(("SR", "KO"), "reports"),
    **dict.fromkeys(("SC", "OT"), "secondary captures"),
    **dict.fromkeys(("SEG", "REG", "FID"), "segmentations and registrations"),
    **{"PR": "presentation states", "DOC": "documents"},
}
OTHER_OBJECTS = "DICOM objects that are neither CT nor MR"

# Words of ImageType (0008,0008) from its third value on; manufacturers have their own (PS3.3 C.8.2.1.1.1, C.8.3.1.1.1).
_LOCALIZERS = {"LOCALIZER", "SCOUT", "TOPOGRAM", "SURVIEW", "SCANOGRAM"}
_DERIVED = {
    *("PROJECTION IMAGE", "MIP", "MINIP", "MAX_IP", "MIN_IP", "MAXIMUM", "MINIMUM", "VRT", "SSD"),
    *("CSA MPR", "CSA RESAMPLED", "SCREEN SAVE", "SCREENSHOT", "RGB", "POSTPROCESSED"),
    *("PERFUSION", "CBF", "CBV", "RCBF", "RCBV", "MTT", "TTP", "TMAX", "PBP", "KTRANS"),
    *("ADC", "FA", "EADC", "TRACEW", "TENSOR", "PHASE MAP", "T1 MAP", "T2 MAP", "SUB"),
}
# AcquisitionContrast (0008,9209) of enhanced MR and EchoPulseSequence (0018,9008) (PS3.3 C.8.13.3, C.8.13.4).
_CONTRASTS: dict[str, Weighting] = {
    **{"T1": "t1", "T2": "t2", "FLUID_ATTENUATED": "flair", "PROTON_DENSITY": "pd"},
    **{"T2_STAR": "t2star", "DIFFUSION": "diffusion"},
}
_SEQUENCES = {"SPIN": ["SE"], "GRADIENT": ["GR"], "BOTH": ["SE", "GR"]}
_SHORT_ECHO, _LONG_ECHO = 30.0, 60.0  # ms
_LONG_REPETITION = 1800.0  # ms
_FLUID_NULLED = 1500.0  # ms of inversion time; shorter ones null white matter or fat


def modality_of(values: Mapping[str, Any]) -> Modality | None:
    """CT or MR by Modality (0008,0060), or, where it is missing, by SOPClassUID (0008,0016); None for all else."""
    kind = str(values.get("SOPClassUID", ""))
    said = _NAMES.get(str(values.get("Modality", "")).strip())
    known = {**CLASSES, **ENHANCED}
    if kind in ("", *known):
        return said if "Modality" in values else known.get(kind)
    # Converters write slices as secondary captures, with their place.
    placed = "ImagePositionPatient" in values and "ImageOrientationPatient" in values
    units = said == "mr" or "RescaleIntercept" in values
    return said if is_capture(values) and placed and units else None


def is_capture(values: Mapping[str, Any]) -> bool:
    """Whether SOPClassUID (0008,0016) is that of a secondary capture."""
    kind = str(values.get("SOPClassUID", ""))
    return kind == _ROOT + "7" or kind.startswith(_ROOT + "7.")


def other_object(values: Mapping[str, Any]) -> str:
    """What an object is that is neither CT nor MR, in the plural."""
    kind = str(values.get("SOPClassUID", "")).removeprefix(_ROOT)
    for start, name in _BY_CLASS.items():
        if f"{kind}.".startswith(start):
            return name
    return _BY_MODALITY.get(str(values.get("Modality", "")).strip(), OTHER_OBJECTS)


def kind_of_image(values: Mapping[str, Any]) -> Kind:
    """Localizer, derived image, result of ctmr, or a scan, by ImageType (0008,0008) (DICOM PS3.3 C.7.6.1.1.2).

    DERIVED\\PRIMARY is a scan, as some scanners call what they filtered; DERIVED\\SECONDARY is derived.
    """
    words = _words(values, "ImageType")
    if "SYNTHETIC" in words[2:]:
        return "synthetic"
    if _LOCALIZERS.intersection(words[2:]):
        return "localizer"
    if words[:2] == ["DERIVED", "SECONDARY"] or _DERIVED.intersection(words[2:]):
        return "derived"
    if words[2:3] in (["P"], ["PHASE"]):  # of a complex MR; its magnitude is the scan
        return "derived"
    return "scan"


def weighting_of(values: Mapping[str, Any]) -> Weighting | None:
    """The contrast of an MR by its times and sequence, never by what somebody called it; None where they do not tell.

    EchoTime (0018,0081), RepetitionTime (0018,0080) and InversionTime (0018,0082) in ms. Inversion of 1500 ms or more: FLAIR.
    Long echo: T2, T2* of gradient echoes. Short echo: PD if the repetition is long and nothing is inverted, else T1.
    AcquisitionContrast (0008,9209) of an enhanced object comes first.
    """
    for word in _words(values, "AcquisitionContrast"):
        if word in _CONTRASTS:
            return _CONTRASTS[word]
    if _number(values, "DiffusionBValue") > 0:
        return "diffusion"
    echo, repetition = _number(values, "EchoTime"), _number(values, "RepetitionTime")
    inversion = _number(values, "InversionTime")
    sequence = _words(values, "ScanningSequence")
    for word in _words(values, "EchoPulseSequence"):
        sequence = [*sequence, *_SEQUENCES.get(word, [])]
    if echo <= 0 or repetition <= 0:
        return None
    if inversion >= _FLUID_NULLED:
        return "flair"
    gradient = "GR" in sequence and "SE" not in sequence
    if gradient and "EP" not in sequence and echo >= _SHORT_ECHO / 2:
        return "t2star"
    if "EP" in sequence:
        return None
    if echo >= _LONG_ECHO:
        return "t2" if repetition >= _LONG_REPETITION else None
    if echo > _SHORT_ECHO:
        return None
    nulled = 300 < inversion < _FLUID_NULLED
    if gradient or nulled or repetition < _LONG_REPETITION / 2:
        return "t1"
    return "pd" if repetition >= _LONG_REPETITION and inversion <= 0 else None


def _words(values: Mapping[str, Any], keyword: str) -> list[str]:
    """The words of a value of one or several, in capitals."""
    said = values.get(keyword, "")
    several = isinstance(said, Iterable) and not isinstance(said, str | bytes)
    return [str(word).strip().upper() for word in (said if several else [said])]


def _number(values: Mapping[str, Any], keyword: str) -> float:
    """A number of the header; 0 where there is none."""
    try:
        return float(values.get(keyword, 0) or 0)
    except (TypeError, ValueError):
        return 0.0

"""What a header says that a file shows."""

import pytest
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    MRImageStorage,
    SecondaryCaptureImageStorage,
)

from ctmr.io.dicom.kinds import kind_of_image, modality_of, other_object, weighting_of

PLACED = {"ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}


@pytest.mark.parametrize(
    ("expected", "tags"),
    [
        ("t1", {"EchoTime": 12, "RepetitionTime": 500, "ScanningSequence": "SE"}),
        # MPRAGE, Mugler and Brookeman 1990: inversion about 900 ms, gradient echoes of some ms.
        (
            "t1",
            {"EchoTime": 2.9, "RepetitionTime": 2300, "InversionTime": 900}
            | {"ScanningSequence": ["GR", "IR"]},
        ),
        ("t1", {"EchoTime": 3.2, "RepetitionTime": 8.2, "ScanningSequence": "GR"}),
        ("t1", {"EchoTime": 24, "RepetitionTime": 2000, "InversionTime": 860}),
        ("t2", {"EchoTime": 100, "RepetitionTime": 4500, "ScanningSequence": "SE"}),
        ("t2", {"EchoTime": 80, "RepetitionTime": 3000}),
        ("pd", {"EchoTime": 15, "RepetitionTime": 3000, "ScanningSequence": "SE"}),
        ("flair", {"EchoTime": 120, "RepetitionTime": 9000, "InversionTime": 2500}),
        ("flair", {"EchoTime": 390, "RepetitionTime": 5000, "InversionTime": 1800}),
        ("t2star", {"EchoTime": 20, "RepetitionTime": 600, "ScanningSequence": "GR"}),
        ("diffusion", {"EchoTime": 80, "RepetitionTime": 4000, "DiffusionBValue": 1000}),
        (None, {"EchoTime": 40, "RepetitionTime": 3000, "ScanningSequence": "EP"}),
        (None, {"EchoTime": 12}),
        (None, {"EchoTime": "short", "RepetitionTime": 500}),
        (None, {}),
    ],
)
def test_weighting_is_told_by_the_times(expected, tags):
    assert weighting_of(tags) == expected


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        ("scan", ["ORIGINAL", "PRIMARY", "AXIAL"]),
        ("scan", ["DERIVED", "PRIMARY", "AXIAL"]),
        ("scan", ["ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"]),
        ("scan", ""),
        ("scan", "ORIGINAL"),
        ("localizer", ["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        ("localizer", ["ORIGINAL", "PRIMARY", "AXIAL", "SCOUT"]),
        ("localizer", ["DERIVED", "SECONDARY", "LOCALIZER"]),
        ("derived", ["DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"]),
        ("derived", ["DERIVED", "PRIMARY", "PROJECTION IMAGE", "MIP"]),
        ("derived", ["ORIGINAL", "PRIMARY", "PERFUSION", "CBF"]),
        ("derived", ["DERIVED", "PRIMARY", "DIFFUSION", "ADC", "ND"]),
        ("synthetic", ["DERIVED", "SECONDARY", "AXIAL", "SYNTHETIC"]),
    ],
)
def test_kind_is_told_by_the_image_type(expected, words):
    assert kind_of_image({"ImageType": words} if words else {}) == expected


@pytest.mark.parametrize(
    ("expected", "tags"),
    [
        ("ct", {"Modality": "CT", "SOPClassUID": CTImageStorage}),
        ("mr", {"SOPClassUID": MRImageStorage}),
        ("mr", {"SOPClassUID": EnhancedMRImageStorage}),
        ("ct", {"Modality": "CT"}),
        ("ct", {"Modality": "CT", "SOPClassUID": MRImageStorage}),
        ("mr", {"Modality": "MR", "SOPClassUID": SecondaryCaptureImageStorage, **PLACED}),
        (None, {"Modality": "CT", "SOPClassUID": SecondaryCaptureImageStorage, **PLACED}),
        (None, {"Modality": "CT", "SOPClassUID": SecondaryCaptureImageStorage}),
        (None, {"Modality": "PT", "SOPClassUID": CTImageStorage}),
        (None, {"Modality": "OT"}),
        (None, {}),
    ],
)
def test_modality_is_what_the_header_says_or_its_class(expected, tags):
    assert modality_of(tags) == expected


@pytest.mark.parametrize(
    ("expected", "tags"),
    [
        ("radiotherapy objects", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.3"}),
        ("radiotherapy objects", {"Modality": "RTDOSE"}),
        ("reports", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.67"}),
        ("presentation states", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.11.1"}),
        ("secondary captures", {"SOPClassUID": SecondaryCaptureImageStorage}),
        ("secondary captures", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.4"}),
        ("segmentations and registrations", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}),
        ("documents", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.104.1"}),
        ("DICOM objects that are neither CT nor MR", {"Modality": "PT"}),
        ("DICOM objects that are neither CT nor MR", {"SOPClassUID": "1.2.3"}),
    ],
)
def test_other_objects_are_called_by_their_class_or_modality(expected, tags):
    assert other_object(tags) == expected

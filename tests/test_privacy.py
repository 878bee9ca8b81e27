"""No text of a patient leaves the headers: 40 canaries through preparing, training, translating and failing."""

import io
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.datadict import dictionary_VR

from ctmr import synthesise_head, write_scan
from ctmr.cli.app import app
from ctmr.errors import CtmrError
from ctmr.imaging.volume import Volume
from ctmr.io.dicom.writer import phantom_series
from support.tiny import TINY

KEYWORDS = (
    *(
        "PatientName",
        "PatientID",
        "OtherPatientNames",
        "PatientBirthName",
        "PatientMotherBirthName",
    ),
    *(
        "PatientAddress",
        "PatientComments",
        "PatientInsurancePlanCodeSequence",
        "MedicalRecordLocator",
    ),
    *("MilitaryRank", "BranchOfService", "CountryOfResidence", "RegionOfResidence", "Occupation"),
    *(
        "PatientTelephoneNumbers",
        "EthnicGroup",
        "AdditionalPatientHistory",
        "PatientReligiousPreference",
    ),
    *("ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName", "PhysiciansOfRecord"),
    *(
        "NameOfPhysiciansReadingStudy",
        "RequestingPhysician",
        "InstitutionName",
        "InstitutionAddress",
    ),
    *("InstitutionalDepartmentName", "StationName", "StudyDescription", "SeriesDescription"),
    *("ProtocolName", "DeviceSerialNumber", "ImageComments", "RequestedProcedureDescription"),
    *(
        "PerformedProcedureStepDescription",
        "AdmittingDiagnosesDescription",
        "AccessionNumber",
        "StudyID",
    ),
    *("IssuerOfPatientID", "ManufacturerModelName"),
)


def plant(folder: Path) -> list[bytes]:
    """Write a canary into 40 text fields of every file of a series, and a private one; return them."""
    names = [k for k in KEYWORDS if dictionary_VR(k) != "SQ"]
    canaries = {keyword: f"CANARY{n:02d}" for n, keyword in enumerate(names)}
    for path in folder.iterdir():
        data = dcmread(path)
        for keyword, canary in canaries.items():
            setattr(data, keyword, canary)
        data.private_block(0x0011, "CANARY77", create=True).add_new(0x01, "LO", "CANARY78")
        data.save_as(path)
    return [c.encode() for c in (*canaries.values(), "CANARY77", "CANARY78")]


@pytest.fixture(scope="module")
def clinic(tmp_path_factory) -> tuple[Path, list[bytes]]:
    """A data folder of DICOM series, with canaries in every header."""
    place = tmp_path_factory.mktemp("clinic") / "data"
    canaries: list[bytes] = []
    for n, (split, modality) in enumerate((s, m) for s in ("train", "test") for m in ("ct", "mr")):
        head = synthesise_head(20 + n, shape=(48, 52, 24), spacing_mm=(4.5, 4.5, 7.0))
        array = head.ct if modality == "ct" else np.rint(head.mr)
        folder = place / split / modality / "scan"
        phantom_series(folder, Volume(array, head.affine, modality), name="x", study=f"{n}")
        canaries = plant(folder)
    return place, canaries


@pytest.fixture
def say(caplog, capsys):
    """Run a command; everything it prints, logs and raises goes into one text."""
    heard = io.StringIO()
    caplog.set_level(logging.DEBUG)

    def run(*words: object) -> None:
        try:
            heard.write(f"exit {app([str(word) for word in words], standalone_mode=False)}\n")
        except SystemExit as error:
            heard.write(f"exit {error.code}\n")
        except CtmrError as error:
            heard.write(str(error))
        printed = capsys.readouterr()
        heard.write(printed.out + printed.err + caplog.text)

    run.heard = heard
    return run


def test_no_canary_leaves_the_headers(clinic, say, tmp_path, tiny_config, monkeypatch):
    data, canaries = clinic
    assert len(canaries) >= 40
    monkeypatch.setenv("CTMR_CACHE", str(tmp_path / "cache"))
    small = [*TINY, "--set", "data.pixel_mm=5.0"]
    run = tmp_path / "run"
    say("train", data, "--out", run, *small, "--steps", "2", "--json")
    model = ("--model", run)
    ct, mr = data / "test/ct/scan", data / "test/mr/scan"
    say("translate", ct, tmp_path / "dicom-mr", *model, "--to", "mr", "--json")
    say("translate", data / "test/mr", tmp_path / "many", *model, "--to", "ct", "--json")
    say("evaluate", run, data / "test", "--json")
    say("report", run)
    # Failures: another modality, a gap, a damaged file, two series, a file that is no DICOM.
    say("translate", mr, tmp_path / "no", *model, "--to", "mr", "--json", "--debug")
    broken = tmp_path / "broken"
    for fault in ("gap", "cut", "mixed", "text"):
        folder = broken / fault
        folder.mkdir(parents=True)
        for path in ct.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        first = sorted(folder.iterdir())[9]
        if fault == "gap":
            first.unlink()
        elif fault == "cut":
            first.write_bytes(first.read_bytes()[:900])
        elif fault == "mixed":
            first.write_bytes(sorted(mr.iterdir())[0].read_bytes())
        else:
            first.write_bytes(b"\0" * 128 + b"DICM" + b"CANARY01" * 30)
        say("translate", folder, tmp_path / f"no-{fault}", *model, "--to", "mr", "--json")
    # NIfTI whose header and extension hold text of a patient.
    image = nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4))
    image.header["descrip"] = b"CANARY00"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"CANARY01"))
    nib.save(image, tmp_path / "phi.nii")
    say("translate", tmp_path / "phi.nii", tmp_path / "no.nii", *model, "--to", "mr")

    heard = say.heard.getvalue()
    assert "exit 8" in heard
    assert "exit 3" in heard
    assert (tmp_path / "dicom-mr").is_dir()
    found = [canary for canary in canaries if canary.decode() in heard]
    sources = {*broken.rglob("*"), tmp_path / "phi.nii"}
    for path in tmp_path.rglob("*"):
        if path.is_file() and path not in sources and path.suffix != ".dcm":
            content = path.read_bytes()
            if path.name.endswith(".gz"):
                content += nib.load(path).header.binaryblock
            found += [(path.name, canary) for canary in canaries if canary in content]
    assert found == []


def test_dicom_output_keeps_the_patient_and_drops_the_rest(clinic, tmp_path):
    from ctmr.imaging.intensity import Intensity
    from ctmr.imaging.resampling import Scale
    from ctmr.translation.batch import translate_files
    from support.identity import HU, translator

    data, _ = clinic
    model = translator(ct={"HU": HU}, mr={"MR": Intensity("MR", HU.values)}, scale=Scale(48, 4.5))
    translate_files(model, data / "test/ct/scan", tmp_path / "out", "mr")
    source, out = (dcmread(next(p.iterdir())) for p in (data / "test/ct/scan", tmp_path / "out"))
    for keyword in ("PatientName", "PatientID", "AccessionNumber", "ReferringPhysicianName"):
        assert str(out[keyword].value) == str(source[keyword].value)
    content = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    for keyword in ("PatientAddress", "OperatorsName", "InstitutionName", "DeviceSerialNumber"):
        assert str(source[keyword].value).encode() not in content
    assert b"CANARY77" not in content
    assert b"CANARY78" not in content


def test_phi_of_a_nifti_header_is_not_copied(tmp_path):
    from ctmr.imaging.intensity import Intensity
    from ctmr.imaging.resampling import Scale
    from ctmr.translation.batch import translate_files
    from support.identity import HU, translator

    head = synthesise_head(3, shape=(48, 52, 24), spacing_mm=(4.5, 4.5, 7.0))
    write_scan(tmp_path / "plain.nii", Volume(head.ct, head.affine, "ct"))
    image = nib.load(tmp_path / "plain.nii")
    image.header["descrip"] = b"CANARY00"
    image.header["aux_file"] = b"CANARY01"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"CANARY02"))
    nib.save(image, tmp_path / "phi.nii")
    assert (tmp_path / "phi.nii").read_bytes().count(b"CANARY0") == 3
    model = translator(ct={"HU": HU}, mr={"MR": Intensity("MR", HU.values)}, scale=Scale(48, 4.5))
    translate_files(model, tmp_path / "phi.nii", tmp_path / "out.nii", "mr")
    for name in ("out.nii", "out.json"):
        assert b"CANARY" not in (tmp_path / name).read_bytes()

"""No text of a patient leaves its file: canaries in every place that holds text, through every command and many failures."""

import base64
import contextlib
import gzip
import io
import json
import logging
import re
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow
from PIL.PngImagePlugin import PngInfo
from pydicom import Dataset, Sequence, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from ctmr import synthesise_head, write_scan
from ctmr.cli.app import app
from ctmr.errors import CtmrError
from ctmr.imaging.volume import Volume
from ctmr.io.dicom.header import PATIENT, STUDY
from ctmr.io.dicom.writer import phantom_series
from ctmr.system.privacy import quiet
from support import tiny
from support.pictures import slices

# Texts of every VR, in places that are read, copied, or neither. A canary is `CANARYnnn` or, where digits only are usual,
# a number of its own; what the VR does not allow is there too, as any text is found in real headers.
PLACES = (
    *("PatientName", "PatientID", "IssuerOfPatientID", "OtherPatientNames", "PatientBirthName"),
    *("PatientMotherBirthName", "PatientAddress", "PatientComments", "MedicalRecordLocator"),
    *("MilitaryRank", "BranchOfService", "CountryOfResidence", "RegionOfResidence", "Occupation"),
    *("PatientTelephoneNumbers", "EthnicGroup", "AdditionalPatientHistory", "OperatorsName"),
    *("PatientReligiousPreference", "ReferringPhysicianName", "PerformingPhysicianName"),
    *("PhysiciansOfRecord", "NameOfPhysiciansReadingStudy", "RequestingPhysician"),
    *("InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "StationName"),
    *("StudyDescription", "SeriesDescription", "ProtocolName", "DeviceSerialNumber"),
    *("ImageComments", "RequestedProcedureDescription", "AdmittingDiagnosesDescription"),
    *("PerformedProcedureStepDescription", "AccessionNumber", "StudyID", "DerivationDescription"),
    *("TextValue", "RetrieveURL", "StationAETitle", "PatientAge", "PatientBirthDate"),
    *("PatientBirthTime", "AcquisitionDateTime", "StudyDate", "StudyTime", "ContentDate"),
    *("ContentTime", "AcquisitionDate", "AcquisitionTime", "PatientSex", "PatientPosition"),
    *("PositionReferenceIndicator", "BodyPartExamined", "PatientWeight", "PatientSize"),
    *("GantryDetectorTilt", "LossyImageCompressionRatio", "SeriesNumber", "AcquisitionNumber"),
    *("WindowCenterWidthExplanation", "LossyImageCompressionMethod", "DeidentificationMethod"),
    *("ManufacturerModelName", "Manufacturer", "SoftwareVersions", "SpecificCharacterSet_"),
    *("InstanceCreatorUID", "PerformedProcedureStepID", "IrradiationEventUID"),
)
COPIED = {*PATIENT, *STUDY, "PatientPosition", "PositionReferenceIndicator", "BodyPartExamined"}
COPIED |= {"ContentDate", "ContentTime", "AcquisitionDate", "AcquisitionTime", "AcquisitionNumber"}
COPIED |= {"DeidentificationMethod", "LossyImageCompressionMethod"}


def plant_dicom(folder: Path) -> dict[str, bytes]:
    """Write a canary into every place of every file of a series; return them by place."""
    canaries = {place: b"CANARY%03d" % n for n, place in enumerate(PLACES)}
    others = {f"other{n}": b"CANARY9%02d" % n for n in range(7)}
    first, second, third, fourth, fifth, sixth, seventh = others.values()
    for path in folder.iterdir():
        data = dcmread(path)
        data.LossyImageCompression = "01"
        for place, canary in canaries.items():
            if not place.endswith("_"):
                tag = Tag(place)
                vr = data[tag].VR if tag in data else "LO"
                data[tag] = RawDataElement(tag, vr, 10, canary + b" ", 0, False, True)
        data.private_block(0x0011, first.decode(), create=True).add_new(1, "LO", second.decode())
        inner, outer = Dataset(), Dataset()
        inner.PatientName, inner.TextValue = third.decode(), fourth.decode()
        outer.ReferencedPatientSequence = Sequence([inner])
        data.ReferencedStudySequence = Sequence([outer])
        data.add_new(0x60000022, "LO", fifth.decode())  # of an overlay
        data.add_new(0x60003000, "OW", sixth.ljust(16))
        data.add_new(0xFFFCFFFC, "OB", seventh)  # padding behind the pixels
        data.preamble = b"CANARY907".ljust(128)
        data.set_original_encoding(False, True, data._character_set)
        data.save_as(path)
    return canaries | others | {"preamble": b"CANARY907"}


def plant_images(folder: Path) -> None:
    """Heads with canaries in all that PNG, JPEG and TIFF files hold beside pixels."""
    for name, modality, seeds in (("trainA", "wide", (1, 2)), ("trainB", "mr", (3, 4))):
        (folder / name).mkdir(parents=True)
        for n, pixels in enumerate(each for seed in seeds for each in slices(seed, modality)):
            image = Pillow.fromarray(pixels.astype(np.uint8))
            exif = Pillow.Exif()
            exif[0x010E], exif[0x013B], exif[0x8298] = "CANARY910", "CANARY911", "CANARY912"
            exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0CANARY913"
            note = PngInfo()
            note.add_text("CANARY914", "CANARY915")
            note.add_text("Comment", "CANARY916" * 20, zip=True)
            note.add_itxt("XML:com.adobe.xmp", "CANARY917", zip=True)
            file = folder / name / f"{n}"
            if n % 3 == 0:
                image.save(file.with_suffix(".png"), pnginfo=note, exif=exif)
            elif n % 3 == 1:
                options = {"quality": 95, "comment": b"CANARY918", "xmp": b"CANARY919"}
                image.save(file.with_suffix(".jpg"), exif=exif, **options)
            else:
                tags = [(65000, "s", 0, "CANARY920", True), (315, "s", 0, "CANARY921", True)]
                content = {"description": "CANARY922", "software": "CANARY923", "extratags": tags}
                tifffile.imwrite(
                    file.with_suffix(".tif"), np.asarray(image), metadata=None, **content
                )


def plant_nifti(path: Path, source: Path) -> None:
    image = nib.load(source)
    for n, field in enumerate(("descrip", "aux_file", "intent_name", "db_name", "data_type")):
        image.header[field] = b"CANARY93%d" % n
    for code, text in (
        ("comment", b"CANARY940"),
        ("afni", b"<xml>CANARY941</xml>"),
        (2, b"CANARY942"),
    ):
        image.header.extensions.append(nib.nifti1.Nifti1Extension(code, text))
    nib.save(image, path)


@pytest.fixture
def say(caplog, capsys, tmp_path, monkeypatch) -> Callable[..., str]:
    """Run a command; everything it prints, logs and raises goes into one text, what it leaves into one folder."""
    heard = io.StringIO()
    caplog.set_level(logging.DEBUG)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("CTMR_CACHE", str(tmp_path / "cache"))

    def run(*words: object) -> str:
        code: object = 0
        caplog.clear()  # of what planting and spoiling logged
        try:
            code = app([str(word) for word in words], standalone_mode=False)
        except SystemExit as error:
            code = error.code
        except CtmrError as error:
            heard.write(str(error))
        printed = capsys.readouterr()
        content = printed.out + printed.err
        heard.write(f"\n$ {words} -> {code or 0}\n{content}{caplog.text}")
        return content

    run.heard = heard
    return run


def contents(path: Path) -> bytes:
    """The bytes of a file, and what is packed in it."""
    found = path.read_bytes()
    packed = b""
    if path.name.endswith(".gz"):
        packed = gzip.decompress(found)
    if found[:4] == b"\x89PNG":
        for text in re.finditer(rb"(zTXt|iTXt|iCCP|eXIf|tEXt)", found):
            for start in range(text.end(), min(text.end() + 100, len(found))):
                with contextlib.suppress(zlib.error):
                    packed += zlib.decompressobj().decompress(found[start:])
    if path.suffix == ".html":
        for image in re.findall(rb"base64,([A-Za-z0-9+/=]{100,})", found):
            packed += base64.b64decode(image)
    return found + packed


MODEL = tiny.TINY


def test_no_text_of_a_patient_is_said_or_written(say, tmp_path):
    data, inputs = tmp_path / "in" / "dicom", tmp_path / "in"
    canaries: dict[str, bytes] = {}
    for n, (split, m) in enumerate((s, m) for s in ("train", "test") for m in ("ct", "mr")):
        head = synthesise_head(20 + n, shape=(48, 52, 24), spacing_mm=(4.5, 4.5, 7.0))
        array = head.ct if m == "ct" else np.rint(head.mr)
        folder = data / split / m / "scan"
        phantom_series(folder, Volume(array, head.affine, m), name="x", study=f"{n}")
        canaries = plant_dicom(folder)
        write_scan(inputs / "plain.nii", Volume(array, head.affine, m))
        if (split, m) == ("test", "ct"):
            plant_nifti(inputs / "phi.nii", inputs / "plain.nii")
            plant_nifti(inputs / "phi.nii.gz", inputs / "plain.nii")
    assert len(canaries) >= 40
    plant_images(inputs / "images")
    before = {path: path.read_bytes() for path in inputs.rglob("*") if path.is_file()}
    ct, mr = data / "test/ct/scan", data / "test/mr/scan"

    # Every command, as it is meant.
    run, images, out = tmp_path / "run", tmp_path / "run-images", tmp_path / "out"
    say("audit", data, "--out", tmp_path / "audit" / "a.json", "--clean", tmp_path / "clean")
    say("audit", inputs / "images", "--out", tmp_path / "audit-images" / "a.json")
    say("prepare", data, tmp_path / "store", *MODEL, "--set", "data.pixel_mm=5.0")
    say("train", data, "--out", run, *MODEL, "--steps", 2, "--set", "data.pixel_mm=5.0", "--json")
    say("train", inputs / "images", "--out", images, *MODEL, "--steps", 2)
    for n, (source, to) in enumerate(((ct, "mr"), (mr, "ct"), (data / "test/mr", "ct"))):
        options = ("--quality", "full", "--anyway", "--json", "--debug")
        say("translate", source, out / f"d{n}", "--model", run, "--to", to, *options)
    for n, (name, options) in enumerate(
        (("phi.nii", ()), ("phi.nii.gz", ("--quality", "full")), ("phi.nii", ("--like", ct)))
    ):
        target = out / f"n{n}" / (name if "--like" not in options else "series")
        say("translate", inputs / name, target, "--model", run, "--to", "mr", "--anyway", *options)
    say(
        "translate",
        inputs / "images/trainA",
        out / "i",
        "--model",
        images,
        "--to",
        "mr",
        "--anyway",
    )
    say("evaluate", run, data / "test", "--debug")
    say("evaluate", run, data, "--json")
    say("report", run)
    assert "-> 0" in say.heard.getvalue()
    for written in ("d0", "d1", "d2", "n0", "n1", "n2", "i"):
        assert any(path.is_file() for path in (out / written).rglob("*")), written

    # Failures, with and without --debug.
    broken = tmp_path / "in-broken"
    for name, spoil in FAULTS.items():
        folder = broken / name
        folder.mkdir(parents=True)
        for path in ct.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        spoil(sorted(folder.iterdir()))
        for debug in ((), ("--debug",)):
            say("translate", folder, tmp_path / "no", "--model", run, "--to", "mr", *debug)
    for name, content in FOREIGN.items():
        (broken / name).write_bytes(content)
        for debug in ((), ("--debug",)):
            say("translate", broken / name, tmp_path / name, "--model", run, "--to", "mr", *debug)
    say("translate", mr, tmp_path / "no", "--model", run, "--to", "mr", "--debug")
    say("evaluate", run, broken, "--debug")

    heard = say.heard.getvalue()
    assert "-> 3" in heard
    assert "-> 8" in heard
    assert "-> 1\n" not in heard
    leaks = {line.split("CANARY")[0][-150:] for line in heard.splitlines() if "CANARY" in line}
    assert not leaks, "\n".join(sorted(leaks))
    assert before == {path: path.read_bytes() for path in before}
    allowed = {canaries[place] for place in COPIED & canaries.keys()}
    kept = 0
    for path in tmp_path.rglob("*"):
        inside = path.relative_to(tmp_path).parts[0]
        if path.is_file() and inside not in ("in", "in-broken", "clean"):
            found = set(re.findall(rb"CANARY\d+", contents(path)))
            if path.suffix == ".dcm":
                kept += len(found)
                found -= allowed
            assert found == set(), path
    assert kept > 0
    assert [path for path in (tmp_path / "tmp").rglob("*") if path.is_file()] == []


def _edited(change: Callable[[Dataset], None]) -> Callable[[list[Path]], None]:
    def spoil(paths: list[Path]) -> None:
        for path in paths[9:10]:  # one: what ails several is told without its causes
            data = dcmread(path)
            change(data)
            with quiet():
                data.set_original_encoding(False, True, data._character_set)
                data.save_as(path)

    return spoil


def _raw(place: str, text: bytes) -> Callable[[list[Path]], None]:
    """A text in the place of a value that is read."""

    def change(data: Dataset) -> None:
        tag = Tag(place)
        vr = data[tag].VR if tag in data else "LO"
        data[tag] = RawDataElement(tag, vr, len(text), text, 0, False, True)

    return _edited(change)


FAULTS: dict[str, Callable[[list[Path]], object]] = {
    "gap": lambda paths: paths[9].unlink(),
    "cut": lambda paths: paths[9].write_bytes(paths[9].read_bytes()[:900]),
    "text": lambda paths: paths[9].write_bytes(b"\0" * 128 + b"DICM" + b"CANARY001" * 30),
    "none": lambda paths: paths[9].write_bytes(b"CANARY001" * 30),
    **{
        place: _raw(place, b"CANARY001 OF TOWN " if place != "ImageType" else b"CANARY001 ")
        for place in (
            *("SliceThickness", "GantryDetectorTilt", "RescaleSlope", "RescaleIntercept"),
            *("RescaleType", "Modality", "ImagePositionPatient", "ImageOrientationPatient"),
            *("PixelSpacing", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"),
            *("FrameOfReferenceUID", "SOPClassUID", "NumberOfFrames", "BurnedInAnnotation"),
            *("PhotometricInterpretation", "LossyImageCompressionRatio", "ImageType", "Rows"),
            *("BitsStored", "PixelPaddingValue", "SpecificCharacterSet", "PatientID"),
        )
    },
}
FOREIGN = {
    "text.png": b"CANARY001",
    "cut.png": b"\x89PNG\r\n\x1a\n" + b"CANARY001" * 9,
    "text.nii": b"CANARY001" * 200,
    "text.nii.gz": b"CANARY001" * 200,
    "gzip.nii.gz": gzip.compress(b"CANARY001" * 200),
    "trail.nii.gz": gzip.compress(bytes(9)) + b"CANARY001" * 9,
}


def test_search_finds_what_is_packed(tmp_path):
    """The search itself finds a canary in each kind of file."""
    note = PngInfo()
    note.add_text("a", "CANARY001" * 50, zip=True)
    Pillow.new("L", (16, 16)).save(tmp_path / "a.png", pnginfo=note)
    (tmp_path / "b.gz").write_bytes(gzip.compress(b"CANARY001"))
    page = base64.b64encode(b"CANARY001" * 20).decode()
    (tmp_path / "c.html").write_text(f"<img src='data:image/png;base64,{page}'>")
    (tmp_path / "d.json").write_text(json.dumps("CANARY001"))
    for path in tmp_path.iterdir():
        assert b"CANARY001" in contents(path), path

"""A small DICOM series of random values, and what spoils it; for the tests of all that reads one."""

import numpy as np
from pydicom import Dataset, dcmread, uid
from pydicom.sequence import Sequence

from ctmr.imaging.volume import Volume
from ctmr.io.dicom.recognise import find_dicom
from ctmr.io.dicom.writer import phantom_series

SHAPE = (12, 10, 6)  # columns, rows, slices


def turned(degrees_x, degrees_z=0.0):
    """A rotation about x, then z."""
    x, z = np.radians([degrees_x, degrees_z])
    about_x = [[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]]
    about_z = [[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]]
    return np.array(about_z) @ np.array(about_x)


def affine(rotation=None, tilt=0.0, spacing=(0.9, 1.1, 2.5)):
    """RAS+: I to the left, J to the back and K up, as of an axial series; then turned, K tilted about x."""
    sides = np.diag([-spacing[0], -spacing[1], spacing[2]])
    sides[1, 2] = np.tan(np.radians(tilt)) * spacing[2]
    matrix = np.eye(4)
    matrix[:3, :3] = (np.eye(3) if rotation is None else rotation) @ sides
    matrix[:3, 3] = [40.25, 31.5, -22.125]
    return matrix


def make(folder, modality="ct", matrix=None, shape=SHAPE, name="P1", study="S1"):
    """Write a small series of random values, and return its volume."""
    rng = np.random.default_rng(5)
    low = -1000 if modality == "ct" else 0
    array = rng.integers(low, 1500, shape).astype(np.float32)
    volume = Volume(array, affine() if matrix is None else matrix, modality)
    phantom_series(folder, volume, name=name, study=study)
    return volume


def edit(path, change=None, **tags):
    """Change tags of a file; None deletes."""
    image = dcmread(path)
    for keyword, value in tags.items():
        if value is None:
            del image[keyword]
        elif keyword.startswith("PixelPadding"):
            image.add_new(keyword, "SS" if image.PixelRepresentation else "US", value)
        else:
            setattr(image, keyword, value)
    if change is not None:
        change(image)
    image.save_as(path)


def edit_all(folder, change=None, **tags):
    for path in find_dicom(folder):
        edit(path, change, **tags)


def one(folder):
    return find_dicom(folder)[0]


SHARED = ("PlaneOrientationSequence", "PixelMeasuresSequence")


def enhanced(folder, out, order=None, change=None, shared=SHARED, compress=None):
    """Write the series of a folder as one enhanced multi-frame file, as PS3.3 A.36 and A.38 lay it out; return its path.

    Args:
        folder: Single-frame files.
        out: A folder for the file.
        order: Of the frames; None: as the files are named.
        change: Called with the object before it is written.
        shared: The functional groups that hold for all frames; the others stand in each.
        compress: A transfer syntax.
    """
    files = [dcmread(path) for path in find_dicom(folder)]
    files = files if order is None else [files[n] for n in order]
    image, is_ct = files[0].copy(), files[0].Modality == "CT"
    image.SOPClassUID = uid.EnhancedCTImageStorage if is_ct else uid.EnhancedMRImageStorage
    image.SOPInstanceUID = "2.25.4711"
    image.NumberOfFrames = len(files)
    image.InstanceNumber, image.ContentDate, image.ContentTime = 1, "20260101", "120000"
    image.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    groups = [_groups(file, k) for k, file in enumerate(files)]
    of_all = Dataset()
    for name in shared:
        of_all[name] = groups[0][name]
        for group in groups:
            del group[name]
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        del image[keyword]
    for keyword in ("SliceThickness", "RescaleSlope", "RescaleIntercept", "RescaleType"):
        image.pop(keyword, None)
    image.SharedFunctionalGroupsSequence = Sequence([of_all])
    image.PerFrameFunctionalGroupsSequence = Sequence(groups)
    image.PixelData = b"".join(file.PixelData for file in files)
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    if change is not None:
        change(image)
    if compress is not None:
        image.compress(compress, generate_instance_uid=False)
    out.mkdir(exist_ok=True)
    image.save_as(out / "enhanced.dcm", enforce_file_format=True)
    return out / "enhanced.dcm"


def _groups(file, k):
    """The functional groups of a frame."""
    content, place, plane, pixels, units = (Dataset() for _ in range(5))
    content.StackID, content.InStackPositionNumber = "1", k + 1
    content.DimensionIndexValues = [1, k + 1]
    place.ImagePositionPatient = file.ImagePositionPatient
    plane.ImageOrientationPatient = file.ImageOrientationPatient
    pixels.PixelSpacing, pixels.SliceThickness = file.PixelSpacing, file.SliceThickness
    units.RescaleSlope, units.RescaleIntercept = (
        file.get("RescaleSlope", 1),
        file.get("RescaleIntercept", 0),
    )
    units.RescaleType = "HU" if file.Modality == "CT" else "US"
    group = Dataset()
    group.FrameContentSequence = Sequence([content])
    group.PlanePositionSequence = Sequence([place])
    group.PlaneOrientationSequence = Sequence([plane])
    group.PixelMeasuresSequence = Sequence([pixels])
    group.PixelValueTransformationSequence = Sequence([units])
    return group


def put(folder, number, volume=None, modality="ct", shape=(20, 20, 10), mm=(10, 10, 15), **tags):
    """Add a series of a number to a folder; 200 x 200 x 150 mm."""
    scratch = folder / "scratch"
    made = make(scratch, modality, affine(spacing=mm) if volume is None else volume, shape)
    for k, path in enumerate(find_dicom(scratch)):
        fresh = {"SeriesInstanceUID": f"2.25.{number}", "SOPInstanceUID": f"2.25.{number}.{k}"}
        edit(path, **{"SeriesNumber": number, **fresh, **tags})
        path.rename(folder / f"{number}_{path.name}")
    scratch.rmdir()
    return made

"""Any bytes: a reader gives a scan or an error of ctmr, within 2 s and 512 MB.

20 000 mutations of small files of every kind, in processes with a limit of memory and an alarm. What fails is written beside the
message, so that it can become a seed: `python tests/faults/test_fuzz.py KIND NUMBER SEED` repeats it.
"""

import io
import json
import logging
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

sys.path.insert(0, str(Path(__file__).parent.parent))  # as a script too

from ctmr.errors import CtmrError
from ctmr.imaging.volume import Volume
from ctmr.io.codecs import encode
from ctmr.io.dicom.series import read_series
from ctmr.io.image_info import read_image_info
from ctmr.io.images import read_image
from ctmr.io.nifti import read_nifti, write_nifti
from ctmr.io.volumes import read_volume_file
from ctmr.reporting.evaluation_section import evaluation_section
from ctmr.system.yaml import read_yaml
from support.dicom_series import enhanced, make, one
from support.volume_files import bomb, foreign_file

SECONDS = 2.0
BYTES = 512 * 2**20
MUTATIONS = 20_000
INFO = b"""{"unit": "HU", "slope": 1, "intercept": -1024, "spacing_mm": [1, 1.5],
 "files": {"a.png": {"spacing_mm": [1, 2]}}}"""
METRICS = b"""{"n": 1, "patients": 1, "unit": "HU", "protocol": "x", "notice": "x", "figures": {"ct-to-mr": {"mae":
 {"name": "x", "unit": "HU", "mask": "x", "range": "x", "better": "lower"}}}, "directions": {"ct-to-mr":
 {"mae": {"mean": 1, "sd": 1, "ci95": [1, 2]}, "baselines": {}, "others": {}}}}"""
YAML = b"seed: 1\ndata:\n  size: 128\n  ct_window: [-100, 300]\n  name: 'a b'\n# a comment\n"
KINDS = (
    *("png", "png16", "jpeg", "tiff", "tiff16", "tiff_signed", "tiff_lzw", "nifti", "nifti_gz"),
    *("mha", "nrrd", "nrrd_raw", "mgz", "mgh"),
    *("dicom", "dicom_rle", "dicom_j2k", "dicom_multi", "zip", "info", "metrics", "yaml"),
)

Read = Callable[[bytes], object]


def seed_of(kind: str, place: Path) -> tuple[bytes, Read]:
    """A small sound file of a kind, and how content in its place is read."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3)).astype(np.uint8)

    def pillow(form: str, **options: object) -> bytes:
        stream = io.BytesIO()
        exif = Pillow.Exif()
        exif[0x0112], exif[0x010E] = 6, "text"
        Pillow.fromarray(pixels).save(stream, form, exif=exif, **options)
        return stream.getvalue()

    def read_from(name: str, read: Callable[[Path], object]) -> Read:
        (place / name).parent.mkdir(exist_ok=True)

        def put(content: bytes) -> object:
            (place / name).write_bytes(content)
            return read(place / name)

        return put

    if kind in ("png", "jpeg", "tiff"):
        return pillow(kind.upper()), read_from("a.png", read_image)
    if kind == "tiff_lzw":
        return pillow("TIFF", compression="tiff_lzw"), read_from("a.png", read_image)
    if kind == "png16":
        return encode(pixels.astype(np.uint16) * 257, "PNG"), read_from("a.png", read_image)
    if kind == "tiff16":
        stream = io.BytesIO()
        deep = pixels.astype(np.uint16) * 257
        tifffile.imwrite(stream, deep, photometric="rgb", compression="zlib")
        return stream.getvalue(), read_from("a.png", read_image)
    if kind == "tiff_signed":
        stream = io.BytesIO()
        tifffile.imwrite(stream, pixels[..., 0].astype(np.int16) * 16 - 1000)
        return stream.getvalue(), read_from("a.png", read_image)
    if kind.startswith("nifti"):
        name = "a.nii.gz" if kind == "nifti_gz" else "a.nii"
        array = np.random.default_rng(0).normal(0, 300, (6, 5, 4)).astype(np.float32)
        write_nifti(place / name, Volume(array, np.diag([-1.0, 1, 2, 1]), "ct"), "x")
        return (place / name).read_bytes(), read_from(name, read_nifti)
    if kind in ("mha", "nrrd", "nrrd_raw", "mgz", "mgh"):
        name = f"a.{kind.removesuffix('_raw')}"
        content = foreign_file(place / name, compressed="_raw" not in kind).read_bytes()
        return content, read_from(name, read_volume_file)
    if kind == "zip":
        make(place / "series", shape=(16, 16, 2))
        with zipfile.ZipFile(place / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted((place / "series").iterdir()):
                archive.write(file, f"study/{file.name}")
        return (place / "a.zip").read_bytes(), read_from("a.zip", read_series)
    if kind.startswith("dicom"):
        from pydicom import dcmread, uid

        folder = place / "series"
        make(folder, shape=(64, 64, 1))
        path = one(folder)
        if kind == "dicom_multi":
            make(place / "single", shape=(16, 16, 4))
            path.unlink()
            path = enhanced(place / "single", folder)
        elif kind != "dicom":
            image = dcmread(path)
            syntax = uid.RLELossless if kind == "dicom_rle" else uid.JPEG2000Lossless
            image.compress(syntax, generate_instance_uid=False)
            image.save_as(path)
        return path.read_bytes(), read_from(f"series/{path.name}", lambda _: read_series(folder))
    if kind == "info":
        return INFO, read_from("ctmr.json", lambda _: read_image_info(place))
    if kind == "metrics":
        return METRICS, read_from("metrics.json", lambda _: evaluation_section(place))
    return YAML, read_from("a.yaml", read_yaml)


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, cut out, put in, made extreme, or moved; mostly in the first 700, where headers are."""
    found = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(found)) if found else 0
        if found and rng.random() < 0.6:
            at = min(at, rng.randrange(700))
        change = rng.randrange(5)
        if change == 0 and found:
            found[at] = rng.randrange(256)
        elif change == 1:
            found[at : at + rng.choice((1, 2, 4, 8, 64))] = b""
        elif change == 2:
            found[at:at] = rng.randbytes(rng.choice((1, 2, 4)))
        elif change == 3:
            extremes = b"\xff\xff\xff\xff", bytes(4), b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"
            found[at : at + 4] = rng.choice(extremes)
        else:
            other = rng.randrange(len(found) + 1)
            found[at : at + 8] = found[other : other + 8]
    return bytes(found)


class TooSlow(BaseException):
    """Told by the alarm; no reader catches it."""


def fuzz(kind: str, count: int, seed: int) -> list[str]:
    """What is wrong with how mutations are read, each with the file that holds it."""
    warnings.simplefilter("error")
    place = Path(tempfile.mkdtemp(prefix=f"ctmr-fuzz-{kind}-"))
    content, read = seed_of(kind, place)
    read(content)

    def ring(*_: object) -> None:
        raise TooSlow

    signal.signal(signal.SIGALRM, ring)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    found = []
    for n in range(count):
        rng = random.Random(f"{kind} {seed} {n}")
        changed = mutated(content, rng)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            read(changed)
        except CtmrError:
            pass
        except (Exception, TooSlow) as error:
            signal.setitimer(signal.ITIMER_REAL, 0)
            kept = place / f"failure-{n}"
            kept.write_bytes(changed)
            frame = error.__traceback__
            while frame is not None and frame.tb_next is not None:
                frame = frame.tb_next
            where = f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}" if frame else ""
            found.append(f"{type(error).__name__}: {str(error)[:100]} at {where}, by {kept}")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    if not found:
        shutil.rmtree(place)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_any_bytes_end_in_a_scan_or_an_error_of_ours(kind, record_property):
    count = -(-MUTATIONS // len(KINDS))
    record_property("inputs mutated", count)
    words = [sys.executable, __file__, kind, str(count), "0"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=200, env=os.environ)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == []
    assert done.stderr == ""  # no library says anything by itself


def png_of(side: int) -> bytes:
    """A PNG that is black, of so many pixels a side."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    row = zlib.compressobj(9)
    data = b"".join(row.compress(bytes(side + 1)) for _ in range(side)) + row.flush()
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


GROWTH = """
import resource, sys
from pathlib import Path
import nibabel, ctmr.io.dicom.series, ctmr.io.images, ctmr.io.volumes
from ctmr.errors import CtmrError
read, path = sys.argv[1], Path(sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    {"image": ctmr.io.images.read_image, "volume": ctmr.io.volumes.read_volume_file, "dicom": ctmr.io.dicom.series.read_series}[read](path)
except CtmrError as error:
    print(error.exit_code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def bombs(kind: str, folder: Path) -> Path:
    """A small file that says, or becomes, something huge."""
    if kind == "image":
        (folder / "a.png").write_bytes(png_of(12_000))
        return folder / "a.png"
    if kind == "nifti":
        import gzip

        write_nifti(folder / "a.nii", Volume(np.zeros((4, 4, 4), np.float32), np.eye(4), "ct"), "x")
        head = bytearray((folder / "a.nii").read_bytes()[:352])
        head[42:48] = struct.pack("<3h", 32_767, 32_767, 1)
        (folder / "a.nii.gz").write_bytes(gzip.compress(bytes(head) + bytes(2**28)))
        return folder / "a.nii.gz"
    if kind == "zip":
        with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.dcm", bytes(2**28))
        return folder / "a.zip"
    if kind in ("mha", "nrrd", "mgz"):
        path = folder / f"a.{kind}"
        path.write_bytes(bomb(path.suffix, (64, 64, 64), 2**28))
        return path
    from pydicom import dcmread, uid
    from pydicom.encaps import encapsulate

    make(folder / "series", shape=(1024, 1024, 1))
    path = one(folder / "series")
    image = dcmread(path)
    if kind == "multi":
        path = enhanced(folder / "series", folder / "multi")
        image = dcmread(path)
    if kind in ("frames", "multi"):
        image.NumberOfFrames = 10**9
    elif kind == "sides":
        image.Rows = image.Columns = 65_535
    else:
        segment = b"\x81\0" * (1024 * 1024 - 40)
        frame = struct.pack("<16L", 2, 64, 64 + len(segment), *[0] * 13) + 2 * segment
        image.PixelData = encapsulate([frame])
        image["PixelData"].VR, image["PixelData"].is_undefined_length = "OB", True
        image.file_meta.TransferSyntaxUID = uid.RLELossless
    image.save_as(path)
    return path.parent


@pytest.mark.parametrize(
    "kind", ["image", "nifti", "mha", "nrrd", "mgz", "zip", "frames", "multi", "sides", "rle"]
)
def test_bomb_is_refused_within_100_mb(kind, tmp_path):
    path = bombs(kind, tmp_path)
    read = {
        "zip": "dicom",
        "frames": "dicom",
        "multi": "dicom",
        "sides": "dicom",
        "rle": "dicom",
        "image": "image",
    }.get(kind, "volume")
    words = [sys.executable, "-c", GROWTH, read, str(path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    code, growth = map(int, done.stdout.split())
    assert code in (3, 7)
    assert growth < 100 * 1024, f"{growth} KB"


if __name__ == "__main__":
    logging.getLogger("ctmr").addHandler(logging.NullHandler())  # what ctmr warns of is its right
    print(json.dumps(fuzz(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))

import io
import json
import logging
import os
import re
import stat
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import png
import pytest
import SimpleITK
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL import ImageOps

from ctmr.errors import DataError, OutputError
from ctmr.imaging.image import Image
from ctmr.imaging.resampling import Scale, resize, training_scale
from ctmr.io.codecs import COMMENT, encode
from ctmr.io.image_info import ImageInfo, read_image_info, write_image_info
from ctmr.io.images import read_image, save_image, write_image


def noise(*shape: int, top: int = 256, seed: int = 0) -> np.ndarray:
    dtype = np.uint8 if top == 256 else np.uint16
    return np.random.default_rng(seed).integers(0, top, shape).astype(dtype)


def png16(path: Path, pixels: np.ndarray, **options: object) -> Path:
    height, width, channels = pixels.shape
    writer = png.Writer(
        width, height, greyscale=channels < 3, alpha=channels in (2, 4), bitdepth=16, **options
    )
    with path.open("wb") as stream:
        writer.write_array(stream, pixels.ravel().tolist())
    return path


# Formats and modes


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".PNG"])
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("shape", [(20, 31), (20, 31, 3)])
def test_written_image_is_read_back_exactly(tmp_path, suffix, depth, shape):
    array = noise(*shape, top=2**depth).astype(np.float32)
    write_image(tmp_path / f"a{suffix}", Image(array, "grey", depth))
    image = read_image(tmp_path / f"a{suffix}")
    assert np.array_equal(image.array, array)
    assert (image.unit, image.depth, image.spacing_mm) == ("grey", depth, None)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg"])
def test_jpeg_is_written_close_to_the_image(tmp_path, suffix):
    rows = np.linspace(20, 230, 32, dtype=np.float32)
    array = np.repeat(np.tile(rows, (32, 1))[..., None], 3, axis=-1)
    write_image(tmp_path / f"a{suffix}", Image(array, "grey", 8))
    assert np.abs(read_image(tmp_path / f"a{suffix}").array - array).max() <= 2


@pytest.mark.parametrize(
    ("form", "mode"),
    [("PNG", mode) for mode in ("1", "L", "P", "RGB", "I;16")]
    + [("JPEG", mode) for mode in ("L", "RGB", "CMYK", "YCbCr")]
    + [("TIFF", mode) for mode in ("1", "L", "P", "RGB", "CMYK", "YCbCr", "I;16")],
)
def test_every_opaque_mode_is_read_as_pillow_shows_it(tmp_path, form, mode):
    image = Pillow.fromarray(noise(20, 31, 3))
    image = Pillow.fromarray(noise(20, 31, top=65536)) if mode == "I;16" else image.convert(mode)
    image.save(tmp_path / "a.png", form)
    with Pillow.open(tmp_path / "a.png") as there:
        expected = np.asarray(
            there if mode == "I;16" else there.convert("L" if mode in ("1", "L") else "RGB")
        )
    assert np.array_equal(read_image(tmp_path / "a.png").array, expected)


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("interlace", [False, True])
def test_16_bit_png_with_colour_or_alpha_keeps_16_bits(tmp_path, channels, interlace):
    pixels = noise(20, 31, channels, top=65536)
    if channels != 3:
        pixels[..., -1] = 65535
    image = read_image(png16(tmp_path / "a.png", pixels, interlace=interlace))
    colour = pixels[..., 0] if channels == 2 else pixels[..., :3]
    assert np.array_equal(image.array, colour)
    assert (image.depth, image.transparent) == (16, False)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_16_bit_rgb_tiff_keeps_16_bits(tmp_path, planar, compression):
    pixels = noise(20, 31, 3, top=65536)
    laid = pixels if planar == "contig" else np.ascontiguousarray(pixels.transpose(2, 0, 1))
    tifffile.imwrite(
        tmp_path / "a.tif", laid, photometric="rgb", planarconfig=planar, compression=compression
    )
    assert np.array_equal(read_image(tmp_path / "a.tif").array, pixels)


def test_16_bit_tiff_where_white_is_zero_is_turned_over(tmp_path):
    pixels = noise(20, 31, top=65536)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="miniswhite")
    assert np.array_equal(read_image(tmp_path / "a.tif").array, 65535.0 - pixels)


@pytest.mark.parametrize("top", [256, 65536])
def test_grey_and_rgb_of_the_same_values_are_bit_equal(tmp_path, top):
    grey = noise(40, 50, top=top)
    (tmp_path / "grey.png").write_bytes(encode(grey, "PNG"))
    (tmp_path / "rgb.png").write_bytes(encode(np.dstack([grey] * 3), "PNG"))
    expected = read_image(tmp_path / "grey.png", 1).array
    assert np.array_equal(read_image(tmp_path / "rgb.png", 1).array, expected)
    assert np.array_equal(read_image(tmp_path / "grey.png", 3).array, np.dstack([grey] * 3))


def test_colour_becomes_grey_by_the_itu_r_601_weights(tmp_path):
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[0, 0], pixels[0, 1], pixels[0, 2] = (100, 0, 0), (0, 100, 0), (10, 20, 30)
    Pillow.fromarray(pixels).save(tmp_path / "a.png")
    row = read_image(tmp_path / "a.png", 1).array[0, :3]
    # 0.299 * 10 + 0.587 * 20 + 0.114 * 30 = 18.15
    assert row == pytest.approx([29.9, 58.7, 18.15], abs=1e-5)


def test_transparent_pixels_are_put_on_black_and_logged(tmp_path, caplog):
    pixels = np.full((16, 16, 4), 200, np.uint8)
    pixels[..., 3] = 255
    pixels[0, 0, 3], pixels[0, 1, 3] = 0, 51
    Pillow.fromarray(pixels).save(tmp_path / "a.png")
    with caplog.at_level(logging.INFO):
        image = read_image(tmp_path / "a.png", 1)
    assert image.array[0, :3] == pytest.approx([0, 40, 200])  # 200 * 51 / 255
    assert "transparent pixels were put on black" in caplog.text


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "I;16", "RGB16"])
def test_a_colour_declared_transparent_becomes_black(tmp_path, mode):
    path = tmp_path / "a.png"
    if mode == "RGB16":
        pixels = noise(16, 16, 3, top=65536)
        png16(path, pixels, transparent=tuple(int(v) for v in pixels[2, 3]))
    else:
        image = Pillow.fromarray(noise(16, 16, top=65536 if mode == "I;16" else 256))
        image = image if mode == "I;16" else image.convert(mode)
        image.save(path, transparency=image.getpixel((3, 2)))
    image = read_image(path, 1)
    assert image.transparent
    assert image.array[2, 3] == 0
    assert image.array.max() > 100


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF"])
def test_exif_orientation_is_applied_once(tmp_path, orientation, form):
    pixels = np.zeros((24, 40), np.uint8)
    pixels[:8, :8] = 250  # the marker in one corner
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    Pillow.fromarray(pixels).save(tmp_path / "a.png", form, exif=exif)
    # From memory: Pillow 13 garbles a turned TIFF that it maps from a file.
    with Pillow.open(io.BytesIO((tmp_path / "a.png").read_bytes())) as there:
        there.load()
        expected = np.asarray(ImageOps.exif_transpose(there))
    assert np.array_equal(read_image(tmp_path / "a.png").array, expected)


def test_16_bit_colour_png_is_turned_upright_too(tmp_path):
    pixels = noise(16, 20, 3, top=65536)
    path = png16(tmp_path / "a.png", pixels)
    exif = Pillow.Exif()
    exif[0x0112] = 6
    header, *rest = png.Reader(bytes=path.read_bytes()).chunks()
    with path.open("wb") as stream:
        png.write_chunks(stream, [header, (b"eXIf", exif.tobytes()[6:]), *rest])
    assert np.array_equal(read_image(path).array, np.rot90(pixels, -1))


def test_content_decides_the_format_and_not_the_suffix(tmp_path):
    Pillow.fromarray(noise(16, 16)).save(tmp_path / "a.jpg", "PNG")
    assert np.array_equal(read_image(tmp_path / "a.jpg").array, noise(16, 16))


# Refusals


def crafted_png(width: int, height: int, *, bits: int = 8, colour: int = 0, data: bytes = b""):
    stream = io.BytesIO()
    header = struct.pack(">2I5B", width, height, bits, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    png.write_chunks(stream, chunks)
    return stream.getvalue()


def frames(form: str) -> bytes:
    stream = io.BytesIO()
    first, second = (Pillow.fromarray(noise(16, 16, seed=seed)) for seed in (0, 1))
    first.save(stream, form, save_all=True, append_images=[second])
    return stream.getvalue()


def tiff(pixels: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, **options)
    return stream.getvalue()


def as_bytes(form: str, pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Pillow.fromarray(pixels).save(stream, form)
    return stream.getvalue()


def signed(low: int, high: int, **options: object) -> tuple[np.ndarray, bytes]:
    """Signed 16-bit pixels from low to high, and the bytes of their TIFF."""
    pixels = np.random.default_rng(2).integers(low, high, (24, 20)).astype(np.int16)
    pixels[0, :2] = low, high
    return pixels, tiff(pixels, **options)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}])
def test_signed_tiff_with_air_is_read_in_hu(tmp_path, options, byteorder):
    pixels, content = signed(-1024, 3071, byteorder=byteorder, **options)
    (tmp_path / "a.tif").write_bytes(content)
    image = read_image(tmp_path / "a.tif")
    assert np.array_equal(image.array, pixels)
    assert (image.unit, image.depth) == ("HU", 16)


def test_signed_tiff_of_simpleitk_is_read_in_hu(tmp_path):
    pixels, _ = signed(-1024, 3071)
    for compressed in (False, True):  # by LZW
        image = SimpleITK.GetImageFromArray(pixels)
        SimpleITK.WriteImage(image, str(tmp_path / "a.tif"), compressed, compressor="LZW")
        assert np.array_equal(read_image(tmp_path / "a.tif").array, pixels)


def test_signed_tiff_is_what_its_ctmr_json_says(tmp_path):
    pixels, content = signed(-300, 900)  # no air
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(DataError, match="from -300 to 900") as caught:
        read_image(tmp_path / "a.tif")
    said = re.search(r"\{.*\}", caught.value.fix)
    (tmp_path / "ctmr.json").write_text(said[0])
    image = read_image(tmp_path / "a.tif")
    assert np.array_equal(image.array, pixels)
    assert image.unit == "HU"
    (tmp_path / "ctmr.json").write_text('{"unit": "HU", "slope": 2, "intercept": -10}')
    assert np.array_equal(read_image(tmp_path / "a.tif").array, 2 * pixels.astype(float) - 10)


def test_signed_tiff_without_negative_values_is_grey(tmp_path):
    pixels, content = signed(0, 4000)
    (tmp_path / "a.tif").write_bytes(content)
    image = read_image(tmp_path / "a.tif")
    assert np.array_equal(image.array, pixels)
    assert (image.unit, image.encoding) == ("grey", "16-bit")


@pytest.mark.parametrize("low", [-499, -4097, -32_768])
def test_signed_values_that_do_not_look_like_hu_are_refused(tmp_path, low):
    (tmp_path / "a.tif").write_bytes(signed(low, 3000)[1])
    with pytest.raises(DataError, match=f"found signed values from {low} to 3000"):
        read_image(tmp_path / "a.tif")


def test_hu_of_a_signed_tiff_are_written_with_a_ctmr_json(tmp_path):
    pixels, content = signed(-1000, 3000)
    (tmp_path / "a.tif").write_bytes(content)
    save_image(tmp_path / "out" / "b.tif", read_image(tmp_path / "a.tif"))
    again = read_image(tmp_path / "out" / "b.tif")
    assert np.array_equal(again.array, pixels)
    assert again.unit == "HU"


BAD_FILES = {
    "empty": (b"", "found an empty file"),
    "text": (b"not an image", "found another file"),
    "gif": (as_bytes("GIF", noise(16, 16)), "found a GIF"),
    "huge header": (crafted_png(60000, 60000), "at most 64000000 pixels: found 60000 x 60000"),
    "12000 x 12000": (crafted_png(12000, 12000), "found 12000 x 12000"),
    "tiny": (as_bytes("PNG", noise(15, 40)), "at least 16 pixels a side: found 15 x 40"),
    "animated png": (frames("PNG"), "found several frames"),
    "two pages": (frames("TIFF"), "found several frames"),
    "cut png": (as_bytes("PNG", noise(64, 64))[:2000], "cannot decode"),
    "cut jpeg": (as_bytes("JPEG", noise(64, 64))[:1500], "cannot decode"),
    "cut tiff": (as_bytes("TIFF", noise(64, 64))[:1500], "cannot decode"),
    "float": (tiff(np.zeros((16, 16), np.float32)), "8 or 16 bits .* found Pillow mode F"),
    "32 bits": (tiff(np.zeros((16, 16), np.uint32)), "8 or 16 bits .* found Pillow mode I"),
    "signed": (
        tiff(np.full((16, 16), -20, np.int16)),
        "HU with air below -500: found signed .* -20",
    ),
    "signed 8 bits": (tiff(np.full((16, 16), -20, np.int8)), "found signed values, Pillow mode L"),
    "signed RGB": (
        tiff(np.full((16, 16, 3), -20, np.int16), photometric="rgb"),
        "cannot decode|found signed values",
    ),
    "16-bit CMYK": (
        tiff(np.zeros((16, 16, 4), np.uint16), photometric="separated"),
        "8 or 16 bits .* found Pillow mode CMYK",
    ),
    "bomb": (
        crafted_png(16, 16, bits=16, colour=2, data=bytes(10_000_000)),
        "inflates to more than",
    ),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_unusable_file_is_refused_by_name(tmp_path, kind):
    content, why = BAD_FILES[kind]
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(DataError, match=rf"bad\.png: .*{why}"):
        read_image(tmp_path / "bad.png")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "PNG16"])
def test_no_damage_ends_in_anything_but_a_data_error(tmp_path, form):
    good = encode(noise(24, 24, 3, top=65536), "PNG") if form == "PNG16" else b""
    good = good or as_bytes(form, noise(24, 24, 3))
    for place in range(0, len(good), max(1, len(good) // 60)):
        flipped = good[:place] + bytes([good[place] ^ 0xFF]) + good[place + 1 :]
        for content in (flipped, good[:place]):
            (tmp_path / "a.png").write_bytes(content)
            try:
                read_image(tmp_path / "a.png")
            except DataError as error:
                assert "a.png" in str(error)  # noqa: PT017 - many damages decode well


def test_long_chain_of_pages_is_refused_at_once(tmp_path):
    stream = io.BytesIO()
    Pillow.new("L", (16, 16)).save(stream, "TIFF")
    page = stream.getvalue()
    first = struct.unpack("<I", page[4:8])[0]
    directory = page[first : first + 2 + 12 * struct.unpack("<H", page[first : first + 2])[0]]
    size = len(directory) + 4
    chain = b"".join(directory + struct.pack("<I", len(page) + n * size) for n in range(1, 60_000))
    chain += directory + bytes(4)
    link = first + len(directory)
    content = page[:link] + struct.pack("<I", len(page)) + page[link + 4 :] + chain
    (tmp_path / "a.tif").write_bytes(content)
    started = time.perf_counter()
    with pytest.raises(DataError, match="found several frames"):
        read_image(tmp_path / "a.tif")
    assert time.perf_counter() - started < 1  # 20 000 took 3.2 s


def test_missing_file_and_fifo_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "fifo.png")
    with pytest.raises(DataError, match=r"fifo\.png: cannot read it \(it is not a regular file\)"):
        read_image(tmp_path / "fifo.png")
    with pytest.raises(DataError, match=r"none\.png: cannot read it \(No such file"):
        read_image(tmp_path / "none.png")


# Folders


# ctmr.json


def test_hu_survive_a_16_bit_image(tmp_path):
    hu = np.linspace(-1024, 3071, 64 * 64, dtype=np.float32).reshape(64, 64).round()
    write_image(tmp_path / "a.png", Image(hu, "HU", 16))
    write_image_info(tmp_path, "HU", (0.5, 0.4), {"b.png": (1.0, 2.0)})
    image = read_image(tmp_path / "a.png")
    assert np.array_equal(image.array, hu)
    assert (image.unit, image.spacing_mm, image.encoding) == ("HU", (0.5, 0.4), "HU")
    assert read_image_info(tmp_path).spacing_of("b.png") == (1.0, 2.0)


def test_slope_and_intercept_are_applied_as_in_the_contract(tmp_path):
    (tmp_path / "ctmr.json").write_text(
        '{"unit": "HU", "slope": 2, "intercept": -1000, "spacing_mm": [1, 1]}'
    )
    Pillow.fromarray(np.full((16, 16), 600, np.uint16)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").array[0, 0] == 200  # 2 * 600 - 1000


def test_colour_file_with_hu_is_one_channel(tmp_path):
    (tmp_path / "a.png").write_bytes(encode(np.full((16, 16, 3), 1000, np.uint16), "PNG"))
    info = ImageInfo("HU", 1.0, -1024.0)
    assert read_image(tmp_path / "a.png", info=info).array.tolist() == [[-24.0] * 16] * 16
    assert read_image(tmp_path / "a.png", 3, info).array.shape == (16, 16, 3)


def test_folder_without_ctmr_json_has_grey_values(tmp_path):
    assert read_image_info(tmp_path) == ImageInfo("grey", 1.0, 0.0, None, {})


BAD_INFO = {
    '{"unit": "HU"}': "slope and intercept with unit HU",
    '{"unit": "hu"}': "unit to be",
    '{"slope": 0, "intercept": 0}': "slope above 0",
    '{"slope": true}': "slope above 0",
    '{"slope": 2}': "slope 1 and intercept 0 with unit grey",
    '{"slope": NaN}': "NaN is not a number",
    '{"slope": 1e999}': "slope above 0",
    '{"unit": "HU", "unit": "grey"}': "given twice",
    '{"spacing": [1, 1]}': r"keys among .*spacing_mm.*found \['spacing'\]",
    '{"spacing_mm": [1]}': "two numbers",
    '{"spacing_mm": [0, 1]}': "two numbers",
    '{"spacing_mm": null}': "two numbers",
    '{"files": {"a.png": {}}}': "two numbers",
    '{"files": {"a.png": {"slope": 1}}}': "keys among spacing_mm",
    "[1]": "an object",
    "{": "one JSON object",
    "[" * 100_000: "one JSON object",
    "\xff": "one JSON object",
    " " * 10_000_001: "at most 10000000 bytes",
}


@pytest.mark.parametrize("text", BAD_INFO, ids=lambda text: text[:40])
def test_ctmr_json_that_is_not_understood_is_refused(tmp_path, text):
    (tmp_path / "ctmr.json").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=rf"ctmr\.json: expected .*{BAD_INFO[text]}"):
        read_image_info(tmp_path)


# Writing


def test_values_are_rounded_half_to_even_and_clipped(tmp_path):
    array = np.zeros((16, 16), np.float32)
    array[0, :5] = [0.5, 1.5, 2.5, -3, 300]
    write_image(tmp_path / "a.png", Image(array, "grey", 8))
    assert read_image(tmp_path / "a.png").array[0, :5].tolist() == [0, 2, 2, 0, 255]


@pytest.mark.parametrize("shape", [(16, 16), (16, 16, 3)])
@pytest.mark.parametrize("depth", [8, 16])
def test_png_says_that_it_is_synthetic_and_nothing_else(tmp_path, shape, depth):
    write_image(tmp_path / "a.png", Image(np.zeros(shape, np.float32), "grey", depth))
    with Pillow.open(tmp_path / "a.png") as there:
        assert there.info == {"Comment": COMMENT}
        assert dict(there.getexif()) == {}
    umask = os.umask(0o022)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "a.png").stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize(("name", "key"), [("a.jpg", "comment"), ("a.tif", 270)])
def test_jpeg_and_tiff_say_that_they_are_synthetic(tmp_path, name, key):
    write_image(tmp_path / name, Image(np.zeros((16, 16), np.float32), "grey", 8))
    with Pillow.open(tmp_path / name) as there:
        content = there.info[key] if key == "comment" else there.tag_v2[key]
    assert COMMENT in str(content)


@pytest.mark.parametrize(
    ("name", "depth", "why"),
    [
        ("a.jpg", 16, "16-bit image needs a suffix of .png, .tif, .tiff: found '.jpg'"),
        ("a.bmp", 8, "8-bit image needs a suffix of .*found '.bmp'"),
        ("file/a.png", 8, "cannot write it"),
    ],
)
def test_image_that_cannot_be_written_leaves_nothing(tmp_path, name, depth, why):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=why):
        write_image(tmp_path / name, Image(np.zeros((16, 16), np.float32), "grey", depth))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_caller_who_writes_nonsense_is_told():
    zeros = np.zeros((16, 16), np.float32)
    with pytest.raises(ValueError, match="HU need 16 bits: got 8"):
        write_image(Path("a.png"), Image(zeros, "HU", 8))
    with pytest.raises(ValueError, match="must be finite"):
        write_image(Path("a.png"), Image(zeros * np.nan, "grey", 8))
    with pytest.raises(ValueError, match="JPEG holds 8 bits: got 16"):
        encode(np.zeros((16, 16), np.uint16), "JPEG")


def test_written_info_is_plain_json(tmp_path):
    write_image_info(tmp_path, "grey", files={"a.png": (0.5, 0.5)})
    content = json.loads((tmp_path / "ctmr.json").read_text())
    assert content == {"unit": "grey", "files": {"a.png": {"spacing_mm": [0.5, 0.5]}}}


# Scale


def test_short_side_is_brought_to_112_hundredths_of_the_size():
    scale = training_scale(128, [(512, 512)], [None])
    assert scale == Scale(short_side=143)  # 143.36
    assert scale.shape_for(512, 512) == (143, 143)
    assert scale.shape_for(300, 600) == (143, 286)
    assert scale.shape_for(600, 300, (1.0, 1.0)) == (286, 143)


def test_spacing_decides_the_scale_where_all_training_images_have_one():
    shapes, spacings = [(512, 600), (256, 256), (100, 100)], [(0.5, 0.5), (0.9, 1.0), (3.0, 3.0)]
    # short sides 256, 230.4 and 300 mm; 256 / 287
    scale = training_scale(256, shapes, spacings)
    assert scale == Scale(short_side=287, pixel_mm=256 / 287)
    assert scale.shape_for(512, 512, (0.5, 0.5)) == (287, 287)
    assert scale.shape_for(256, 256, (0.5, 1.0)) == (144, 287)  # 128 mm x 256 mm
    assert scale.shape_for(512, 512) == (287, 287)  # unknown spacing: by the short side
    assert training_scale(256, shapes, [*spacings[:2], None]).pixel_mm is None


@given(st.integers(16, 600), st.integers(16, 600), st.integers(32, 400))
def test_aspect_is_kept_within_half_a_pixel(height, width, size):
    scale = training_scale(size, [(10, 10)], [None])
    if max(height, width) > 7.9 * min(height, width):
        return
    rows, columns = scale.shape_for(height, width)
    assert min(rows, columns) == scale.short_side
    assert (
        abs(max(rows, columns) - scale.short_side * max(height, width) / min(height, width)) <= 0.5
    )


@pytest.mark.parametrize(
    ("shape", "spacing"), [((16, 5000), None), ((100, 100), (90.0, 90.0)), ((100, 100), (1, 9))]
)
def test_extreme_shapes_are_refused(shape, spacing):
    with pytest.raises(DataError, match="at most 8 times as long as wide, and at most 1144 pixels"):
        Scale(143, 1.0).shape_for(*shape, spacing)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(16, 200), st.integers(16, 200))
def test_resizing_keeps_a_constant_image_constant(height, width):
    array = np.full((50, 70, 3), 7.25, np.float32)
    resized = resize(array, height, width)
    assert resized.shape == (height, width, 3)
    assert np.abs(resized - 7.25).max() < 1e-5


def test_resizing_a_ramp_keeps_its_values_in_place():
    # pixel centres: column j of 20 lies at 2 j + 0.5 of 40
    ramp = np.tile(np.arange(40, dtype=np.float32), (30, 1))
    small = resize(ramp, 15, 20)
    assert small.shape == (15, 20)
    assert small[:, 3:-3] == pytest.approx(
        np.tile(2 * np.arange(20) + 0.5, (15, 1))[:, 3:-3], abs=1e-3
    )


def test_shrinking_does_not_alias():
    checker = (np.indices((200, 200)).sum(axis=0) % 2 * 100).astype(np.float32)
    assert np.ptp(resize(checker, 67, 67)[5:-5, 5:-5]) < 10

import dataclasses
import hashlib
import json
import logging
import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from ctmr import load_model
from ctmr.errors import DataError, OutputError, SafetyError, UsageError
from ctmr.imaging.image import Image
from ctmr.imaging.resampling import Scale
from ctmr.io.codecs import COMMENT
from ctmr.io.image_info import read_image_info, write_image_info
from ctmr.io.images import read_image, write_image
from ctmr.io.reading import Reading
from ctmr.models.quality import Usual
from ctmr.notice import NOTICE
from ctmr.results import Correlation
from ctmr.translation.batch import translate_files
from ctmr.translation.translator import Translator
from support.heads import save_grey
from support.identity import ANYWHERE, GREY_8, GREY_12, HU, Brighter, smooth_head, translator


def save(path: Path, *, seed: int = 0, depth: int = 8, size: tuple[int, int] = (40, 44)) -> Path:
    array = np.random.default_rng(seed).integers(0, 2**depth, size).astype(np.float32)
    write_image(path, Image(array, "grey", 16 if depth > 8 else 8))
    return path


def folder_of(place: Path, *names: str) -> Path:
    for n, name in enumerate(names):
        save(place / name, seed=n)
    return place


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def images(folder: Path) -> dict[str, bytes]:
    no_result = (".json", ".preview.png")
    return {name: content for name, content in tree(folder).items() if not name.endswith(no_result)}


def read_sidecar(path: Path) -> dict:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not strict JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


# Names and places


def test_folder_gives_the_same_names_and_sizes(tmp_path):
    sizes = {"a.png": (40, 44), "B.PNG": (51, 33), "c.tif": (64, 64), "d.jpeg": (48, 60)}
    for name, size in sizes.items():
        save(tmp_path / "in" / name, size=size)
    seen = []
    summary = translate_files(
        translator(),
        tmp_path / "in",
        tmp_path / "out",
        "ct",
        progress=lambda done, total: seen.append((done, total)),
    )
    out = tmp_path / "out"
    beside = {f"{stem}.{what}" for stem in "aBcd" for what in ("json", "preview.png")}
    assert {p.name for p in out.iterdir()} == {*sizes, *beside}
    for name, size in sizes.items():
        image = read_image(out / name)
        assert (image.array.shape, image.depth) == (size, 8)
    assert (summary.written, summary.skipped) == (4, ())
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize("output", ["out.png", "new/folder/out.tiff", "out.jpg"])
def test_file_goes_to_a_file(tmp_path, output):
    source = save(tmp_path / "in" / "a.png")
    translate_files(translator(), source, tmp_path / output, "ct")
    assert read_image(tmp_path / output).array.shape == (40, 44)
    assert (tmp_path / output).with_suffix(".json").exists()


def test_file_goes_into_a_folder_that_exists(tmp_path):
    source = save(tmp_path / "in" / "a.png")
    (tmp_path / "out").mkdir()
    translate_files(translator(), source, tmp_path / "out", "ct")
    names = {"a.png", "a.preview.png", "a.json"}
    assert {p.name for p in (tmp_path / "out").iterdir()} == names


def test_folder_into_a_file_is_refused(tmp_path):
    source = folder_of(tmp_path / "in", "a.png")
    output = save(tmp_path / "out.png")
    before = output.read_bytes()
    with pytest.raises(OutputError, match="OUTPUT must be one: found a file, which is kept"):
        translate_files(translator(), source, output, "ct")
    assert output.read_bytes() == before


@pytest.mark.parametrize("output", ["in", "in/../in", "link"])
def test_inputs_are_never_overwritten(tmp_path, output):
    source = folder_of(tmp_path / "in", "a.png", "b.png")
    (tmp_path / "link").symlink_to(source)
    before = tree(source)
    with pytest.raises(UsageError, match="would overwrite an input"):
        translate_files(translator(), source, tmp_path / output, "ct")
    with pytest.raises(UsageError, match="would overwrite an input"):
        translate_files(translator(), source / "a.png", tmp_path / output / "a.png", "ct")
    assert tree(source) == before


def test_output_that_links_to_an_input_is_refused(tmp_path):
    source = folder_of(tmp_path / "in", "a.png", "b.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.png").symlink_to(source / "a.png")
    with pytest.raises(UsageError, match="would overwrite an input"):
        translate_files(translator(), source, tmp_path / "out", "ct")


def test_inputs_keep_their_bytes(tmp_path):
    source = folder_of(tmp_path / "in", "a.png", "b.jpg")
    write_image_info(source, "grey", files={"a.png": (1, 1)})
    before = tree(source)
    translate_files(translator(), source, tmp_path / "out", "ct")
    assert tree(source) == before


@pytest.mark.parametrize("names", [("a.png", "a.jpg"), ("a.png", "A.PNG")])
def test_two_inputs_for_one_output_are_refused(tmp_path, names):
    source = folder_of(tmp_path / "in", *names)
    model = translator(ct={"HU": HU})  # a JPEG becomes a PNG
    with pytest.raises(DataError, match="two inputs would be written to one output"):
        translate_files(model, source, tmp_path / "out", "ct")
    assert not (tmp_path / "out").exists()


def test_jpeg_with_a_target_in_hu_becomes_a_png(tmp_path):
    source = folder_of(tmp_path / "in", "a.jpg")
    translate_files(translator(ct={"HU": HU}), source, tmp_path / "out", "ct")
    names = {"a.png", "a.preview.png", "a.json", "ctmr.json", ".ctmr-outputs.json"}
    assert {p.name for p in (tmp_path / "out").iterdir()} == names
    image = read_image(tmp_path / "out" / "a.png")
    assert (image.unit, image.depth) == ("HU", 16)


def test_images_of_one_stem_have_a_sidecar_each(tmp_path):
    source = folder_of(tmp_path / "in", "a.png", "a.jpg", "A.tif", "b.png")
    translate_files(translator(), source, tmp_path / "out", "ct")
    sidecars = {p.name for p in (tmp_path / "out").glob("*.json")}
    assert sidecars == {"a.png.json", "a.jpg.json", "A.tif.json", "b.json"}


def test_image_called_ctmr_leaves_the_ctmr_json_alone(tmp_path):
    source = folder_of(tmp_path / "in", "ctmr.png")
    translate_files(translator(ct={"HU": HU}), source, tmp_path / "out", "ct")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "ctmr.png",
        "ctmr.png.preview.png",
        "ctmr.png.json",
        "ctmr.json",
        ".ctmr-outputs.json",
    }
    assert read_image(tmp_path / "out" / "ctmr.png").unit == "HU"


@pytest.mark.parametrize("known", ["8-bit", "HU"])
@pytest.mark.parametrize("output", ["out", "out.txt", "out.json", "out.nii"])
def test_output_file_needs_the_suffix_of_an_image(tmp_path, output, known):
    source = save(tmp_path / "in" / "a.png")
    with pytest.raises(UsageError, match=r"a file ending in \.png, .*: found"):
        translate_files(
            translator(ct={known: HU if known == "HU" else GREY_8}), source, tmp_path / output, "ct"
        )
    assert {p.name for p in tmp_path.iterdir()} == {"in"}


def test_jpeg_cannot_take_hu(tmp_path):
    source = save(tmp_path / "in" / "a.png")
    with pytest.raises(UsageError, match=r"ending in \.png, \.tif, \.tiff: found '\.jpg'"):
        translate_files(translator(ct={"HU": HU}), source, tmp_path / "out.jpg", "ct")
    assert {p.name for p in tmp_path.iterdir()} == {"in"}


@pytest.mark.parametrize(
    "name",
    [b"-rf.png", b"x\ny.png", b"\xff\xfe.png", "ä ö.png".encode(), b"a'\"$(b).png", b"a..b.png"],
)
@pytest.mark.parametrize("target", ["8-bit", "HU"])
def test_odd_names_go_through(tmp_path, name, target):
    source = folder_of(tmp_path / "in", "tmp.png")
    path = (source / "tmp.png").rename(source / os.fsdecode(name))
    write_image_info(source, "grey", files={path.name: (2.0, 2.0)})
    identity = translator(ct={target: HU if target == "HU" else GREY_8})
    assert translate_files(identity, source, tmp_path / "out", "ct").written == 1
    image = read_image(tmp_path / "out" / path.name)
    assert (image.array.shape, image.spacing_mm) == ((40, 44), (2.0, 2.0))
    assert (
        read_sidecar((tmp_path / "out" / path.name).with_suffix(".json"))["direction"] == "mr-to-ct"
    )


@pytest.mark.parametrize(("quality", "found"), [("none", 256), ("fast", 263)])
def test_name_too_long_for_what_lies_beside_is_refused_before_any_work(tmp_path, quality, found):
    names = ("a.png", "x" * 251 + ".png")  # 255 bytes; .json makes it 256, .preview.png 263
    source = folder_of(tmp_path / "in", *names)
    with pytest.raises(DataError, match=f"at most 255 bytes: found {found}") as caught:
        translate_files(translator(), source, tmp_path / "out", "ct", quality=quality)
    assert "shorten the name" in caught.value.fix
    assert not (tmp_path / "out").exists()


def test_longest_name_goes_through(tmp_path):
    source = folder_of(tmp_path / "in", "x" * 243 + ".png")
    assert translate_files(translator(), source, tmp_path / "out", "ct").written == 1


def test_what_is_no_image_file_is_left_out_with_a_warning(tmp_path, caplog):
    source = folder_of(tmp_path / "in", "a.png", ".hidden.png")
    (source / "notes.txt").write_text("x")
    (source / "sub.png").mkdir()
    (source / "loop.png").symlink_to("loop.png")
    os.mkfifo(source / "pipe.png")
    assert translate_files(translator(), source, tmp_path / "out", "ct").written == 1
    for name in ("loop.png", "pipe.png"):
        assert any(name in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("name", ["nothing", "nothing.png", "notes.txt", "pipe.png", "empty"])
def test_input_that_is_no_image_is_refused(tmp_path, name):
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match=r"expected|no such file|cannot read it") as caught:
        translate_files(translator(), tmp_path / name, tmp_path / "out.png", "ct")
    assert caught.value.file == str(tmp_path / name)


# ctmr.json


def test_hu_are_not_put_beside_images_of_another_unit(tmp_path):
    source = folder_of(tmp_path / "mr", "a.png", "b.png")
    before = tree(source)
    with pytest.raises(OutputError, match="would lie beside others of"):
        translate_files(translator(ct={"HU": HU}), source / "a.png", source / "a_ct.png", "ct")
    assert tree(source) == before  # b.png would have become HU


def test_grey_values_are_not_put_beside_hu(tmp_path):
    source = tmp_path / "ct"
    write_image(source / "a.png", Image(smooth_head(40, 40, -1000, 1000), "HU", 16))
    write_image_info(source, "HU")
    before = tree(source)
    with pytest.raises(OutputError, match="would lie beside others of"):
        translate_files(translator(ct={"HU": HU}), source / "a.png", source / "a_mr.png", "mr")
    assert tree(source) == before


def test_file_after_file_may_go_into_one_folder(tmp_path):
    source = folder_of(tmp_path / "in", "a.png", "b.png")
    write_image_info(source, "grey", files={"a.png": (1, 2), "b.png": (3, 4)})
    for name in ("a.png", "b.png"):
        translate_files(translator(ct={"HU": HU}), source / name, tmp_path / "out" / name, "ct")
    info = read_image_info(tmp_path / "out")
    assert info.unit == "HU"
    assert info.files == {"a.png": (1, 2), "b.png": (3, 4)}


def test_grey_values_without_spacing_need_no_ctmr_json(tmp_path):
    source = folder_of(tmp_path / "in", "a.png")
    translate_files(translator(), source, tmp_path / "out", "ct")
    assert not (tmp_path / "out" / "ctmr.json").exists()


# Bad inputs


def header(width: int, height: int) -> bytes:
    """A PNG with a header and no pixels."""
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = (
        struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
        for body in (ihdr, b"IDAT", b"IEND")
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def ruin(folder: Path) -> dict[str, str]:
    """Write files that cannot be used; what is said of each."""
    sound = save(folder / "good.png", size=(40, 40)).read_bytes()
    flipped = bytearray(sound)
    flipped[sound.index(b"IDAT") + 100] ^= 1
    frames = [Pillow.fromarray(np.full((40, 40), n, np.uint8)) for n in (1, 99)]
    contents = {
        "empty.png": (b"", "found an empty file"),
        "text.png": (b"no image", "found another file"),
        "html.jpg": (b"<!DOCTYPE html>", "found a page or SVG"),
        "cut.png": (sound[: len(sound) // 2], "cannot decode"),
        "flipped.png": (bytes(flipped), "cannot decode"),
        "bomb.png": (header(60000, 60000), "at most 64000000 pixels"),
    }
    found = {}
    for name, (content, why) in contents.items():
        (folder / name).write_bytes(content)
        found[name] = why
    Pillow.fromarray(np.zeros((1, 1), np.uint8)).save(folder / "dot.png")
    frames[0].save(folder / "film.tif", save_all=True, append_images=frames[1:])
    save(folder / "long.png", size=(16, 600))
    return found | {
        "dot.png": "at least 16 pixels a side: found 1 x 1",
        "film.tif": "found several frames",
        "long.png": "at most 8 times as long as wide",
    }


def test_all_bad_inputs_are_named_before_any_work(tmp_path):
    source = tmp_path / "in"
    bad = ruin(source)
    with pytest.raises(DataError, match=r"9 of 10 scans cannot be translated") as caught:
        translate_files(translator(), source, tmp_path / "out", "ct")
    for name, why in bad.items():
        assert name in caught.value.what
        assert why in caught.value.what
    assert "good.png" not in caught.value.what
    assert "--on-error skip" in caught.value.fix
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["dot.png", "cut.png", "long.png"])
def test_one_bad_input_is_the_file_of_the_error(tmp_path, name):
    ruin(tmp_path / "in")
    with pytest.raises(DataError, match=name) as caught:
        translate_files(translator(), tmp_path / "in" / name, tmp_path / "out.png", "ct")
    assert caught.value.file == str(tmp_path / "in" / name)
    assert not (tmp_path / "out.png").exists()


def test_skip_goes_on_and_names_what_it_left_out(tmp_path, caplog):
    source = tmp_path / "in"
    bad = ruin(source)
    save(source / "last.png", seed=7)
    summary = translate_files(translator(), source, tmp_path / "out", "ct", on_error="skip")
    assert summary.written == 2
    assert set(summary.skipped) == set(bad)
    assert set(images(tmp_path / "out")) == {"good.png", "last.png"}
    messages = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    for name in bad:
        assert any(message.startswith("skipped: ") and name in message for message in messages)


def test_skip_of_all_inputs_writes_nothing(tmp_path):
    source = tmp_path / "in"
    ruin(source)
    (source / "good.png").unlink()
    summary = translate_files(
        translator(ct={"HU": HU}), source, tmp_path / "out", "ct", on_error="skip"
    )
    assert (summary.written, len(summary.skipped)) == (0, 9)
    assert not (tmp_path / "out").exists()


def test_photo_is_translated_as_a_viewer_shows_it(tmp_path):
    array = np.zeros((48, 60), np.uint8)
    array[2:14, 2:20] = 255  # a mark at the upper left
    array[30:40, 30:40] = 90
    exif = Pillow.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise: the mark goes to the upper right
    (tmp_path / "in").mkdir()
    Pillow.fromarray(array).save(tmp_path / "in" / "a.png", exif=exif)
    translate_files(translator(scale=Scale(48)), tmp_path / "in", tmp_path / "out", "ct")
    with Pillow.open(tmp_path / "out" / "a.png") as image:
        assert image.size == (48, 60)
        assert not dict(image.getexif())
        result = np.asarray(image)
    assert np.array_equal(result, np.rot90(array, -1))


def test_modes_of_one_picture_give_one_translation(tmp_path):
    grey = Pillow.fromarray(np.rint(smooth_head(40, 40)).astype(np.uint8))
    (tmp_path / "in").mkdir()
    for mode in ("L", "RGB", "RGBA", "P", "LA"):
        grey.convert(mode).save(tmp_path / "in" / f"{mode}.png")
    translate_files(translator(), tmp_path / "in", tmp_path / "out", "ct")
    expected = read_image(tmp_path / "out" / "L.png", channels=1).array
    for mode in ("RGB", "RGBA", "P", "LA"):
        assert np.array_equal(
            read_image(tmp_path / "out" / f"{mode}.png", channels=1).array, expected
        )


# Sidecars and marks


def test_sidecar_says_where_the_image_comes_from(tmp_path, tiny_run, tiny_data):
    model = load_model(tiny_run)
    translate_files(model, tiny_data / "testB", tmp_path / "out", "ct")
    sidecar = read_sidecar(tmp_path / "out" / "head_00.json")
    seconds, quality = sidecar.pop("seconds"), sidecar.pop("quality")
    for key in ("request_sha256", "seal"):
        assert re.fullmatch("[0-9a-f]{64}", sidecar.pop(key))
    assert sidecar == {
        "result": "head_00.png",
        "outputs": {
            name: hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest()
            for name in ("head_00.png", "head_00.preview.png")
        },
        "notice": NOTICE,
        "model_sha256": model.model.card.sha256,
        "direction": "mr-to-ct",
        "unit": "grey",
        "range": [0.0, 255.0],
        "scale": {"short_side": 36, "pixel_mm": None},
        "engine": model.engine,
        "precision": model.precision,
    }
    assert 0 < seconds < 60
    assert quality["level"] in ("ok", "warn")
    assert isinstance(quality["why"], list)
    assert quality["cycle_error"] > 0


@pytest.mark.parametrize(
    ("to", "unit", "values"), [("ct", "HU", [-1024, 3071]), ("mr", "grey", [0, 4095])]
)
def test_sidecar_gives_unit_and_range_of_the_target(tmp_path, to, unit, values):
    model = translator(ct={"HU": HU}, mr={"16-bit": GREY_12})
    save(tmp_path / "in" / "a.png", depth=12)
    if to == "mr":
        write_image_info(tmp_path / "in", "HU")
    translate_files(model, tmp_path / "in", tmp_path / "out", to)
    sidecar = read_sidecar(tmp_path / "out" / "a.json")
    assert (sidecar["unit"], sidecar["range"]) == (unit, values)
    assert sidecar["direction"] == ("mr-to-ct" if to == "ct" else "ct-to-mr")


@pytest.mark.parametrize(
    ("quality", "cycled"), [("none", []), ("fast", [0, 8]), ("full", list(range(10)))]
)
def test_quality_decides_how_many_images_go_back(tmp_path, quality, cycled):
    source = folder_of(tmp_path / "in", *(f"{n:02d}.png" for n in range(10)))
    translate_files(translator(), source, tmp_path / "out", "ct", quality=quality)
    errors = [
        read_sidecar(tmp_path / "out" / f"{n:02d}.json")["quality"]["cycle_error"]
        for n in range(10)
    ]
    assert [n for n, error in enumerate(errors) if error is not None] == cycled
    assert all(errors[n] == 0 for n in cycled)  # the identity loses nothing


# Uncertainty maps


def test_maps_lie_in_a_folder_beside_the_images_and_say_that_they_are_synthetic(tmp_path):
    array = np.zeros((64, 64), np.float32)
    array[8:56, 8:56] = 200
    array[30, 30] = 100
    write_image(tmp_path / "in" / "a.tif", Image(array, "grey", 8))
    model = translator(generator=Brighter)
    translate_files(model, tmp_path / "in", tmp_path / "out", "ct", quality="full")
    assert set(tree(tmp_path / "out")) == {
        "a.tif",
        "a.preview.png",
        "a.json",
        "quality/a_cycle_error.png",
        "quality/a_disagreement.png",
    }
    assert read_sidecar(tmp_path / "out" / "a.json")["quality"]["maps"] == [
        "cycle_error",
        "disagreement",
    ]
    # A fifth of the range there and back; a quarter and more are white.
    assert (read_image(tmp_path / "out/quality/a_cycle_error.png").array == 204).all()
    with Pillow.open(tmp_path / "out/quality/a_disagreement.png") as image:
        assert (image.mode, image.size) == ("L", (64, 64))
        assert COMMENT in image.info.values()


@pytest.mark.parametrize("quality", ["none", "fast"])
def test_there_are_no_maps_without_full_quality(tmp_path, quality):
    source = folder_of(tmp_path / "in", "a.png")
    translate_files(translator(), source, tmp_path / "out", "ct", quality=quality)
    previews = {"none": set(), "fast": {"a.preview.png"}}[quality]
    assert set(tree(tmp_path / "out")) == {"a.png", "a.json", *previews}
    assert read_sidecar(tmp_path / "out" / "a.json")["quality"]["maps"] == []


def test_images_of_one_stem_have_maps_of_their_own(tmp_path):
    source = folder_of(tmp_path / "in", "a.png", "a.tif", "ctmr.png")
    translate_files(translator(), source, tmp_path / "out", "ct", quality="full")
    assert {path.name for path in (tmp_path / "out/quality").iterdir()} == {
        f"{name}_{measure}.png"
        for name in ("a.png", "a.tif", "ctmr.png")
        for measure in ("cycle_error", "disagreement")
    }


def test_folder_of_maps_is_no_scan_of_the_next_translation(tmp_path):
    source = folder_of(tmp_path / "in", "a.png")
    translate_files(translator(), source, tmp_path / "out", "ct", quality="full")
    summary = translate_files(translator(), tmp_path / "out", tmp_path / "back", "mr")
    assert summary.written == 1


def test_map_never_overwrites_an_input(tmp_path):
    source = folder_of(tmp_path / "out" / "quality", "a.png", "a_cycle_error.png")
    before = tree(source)
    with pytest.raises(UsageError, match="the output would overwrite an input"):
        translate_files(translator(), source, tmp_path / "out", "ct", quality="full")
    assert tree(tmp_path / "out" / "quality") == before


def test_map_whose_name_is_too_long_is_refused_before_any_work(tmp_path):
    name = "a" * 243 + ".png"
    source = folder_of(tmp_path / "in", name)
    with pytest.raises(DataError, match="expected an output name of at most 255 bytes: found 259"):
        translate_files(translator(), source, tmp_path / "out", "ct", quality="full")
    assert not (tmp_path / "out").exists()
    translate_files(translator(), source, tmp_path / "out", "ct")


def test_sidecar_gives_the_correlation_of_each_measure_where_it_is_known(tmp_path):
    source = folder_of(tmp_path / "in", "a.png")
    model = translator()
    translate_files(model, source, tmp_path / "unknown", "ct")
    unknown = {"cycle_error": None, "disagreement": None, "input_distance": None}
    assert read_sidecar(tmp_path / "unknown" / "a.json")["quality"]["correlations"] == unknown
    known = {"mr-to-ct": {"disagreement": Correlation(0.7, (0.6, 0.8), 120)}}
    card = model.model.card.model_copy(update={"correlations": known})
    model = Translator(dataclasses.replace(model.model, card=card))
    for to in ("ct", "mr"):
        translate_files(model, source, tmp_path / to, to)
    assert read_sidecar(tmp_path / "mr" / "a.json")["quality"]["correlations"] == unknown
    assert read_sidecar(tmp_path / "ct" / "a.json")["quality"]["correlations"] == unknown | {
        "disagreement": {"spearman": 0.7, "ci95": [0.6, 0.8], "n": 120}
    }


def test_warned_images_are_in_the_summary(tmp_path):
    source = folder_of(tmp_path / "in", "a.png", "b.png")
    usual = Usual({"mean": (-1.0, -0.9)}, 1.0, ANYWHERE)
    summary = translate_files(translator(usual=usual), source, tmp_path / "out", "ct")
    assert summary.warned == ("a.png", "b.png")
    quality = read_sidecar(tmp_path / "out" / "a.json")["quality"]
    assert quality["level"] == "warn"
    assert quality["why"][0].startswith("mean is ")


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg"])
def test_every_image_says_that_it_is_synthetic(tmp_path, name):
    source = folder_of(tmp_path / "in", name)
    translate_files(translator(), source, tmp_path / "out", "ct")
    with Pillow.open(tmp_path / "out" / name) as image:
        marks = [*image.info.values(), *(dict(getattr(image, "tag_v2", {})).values())]
    assert any(mark in (COMMENT, COMMENT.encode()) for mark in marks)
    assert "not for diagnosis" in COMMENT


# Repetition and interruption


def test_same_command_twice_gives_the_same_bytes(tmp_path, tiny_run, tiny_data):
    model = load_model(tiny_run)
    for place in ("first", "second", "second"):  # the third writes over the second
        translate_files(model, tiny_data / "testA", tmp_path / place, "mr")
    assert images(tmp_path / "first") == images(tmp_path / "second")
    first, second = (
        read_sidecar(tmp_path / place / "head_01.json") for place in ("first", "second")
    )
    same = {"seconds": 0, "seal": ""}
    assert first | same == second | same


def test_what_an_interrupted_run_wrote_is_complete_and_the_next_run_ends_as_one(tmp_path):
    source = folder_of(tmp_path / "in", *(f"{n}.png" for n in range(6)))
    translate_files(translator(), source, tmp_path / "whole", "ct")

    def interrupt(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        translate_files(translator(), source, tmp_path / "out", "ct", progress=interrupt)
    whole = images(tmp_path / "whole")
    written = images(tmp_path / "out")
    assert written == {name: whole[name] for name in written}  # each of them whole
    assert {"0.png", "1.png", "2.png"} <= set(written) < set(whole)  # and one ahead
    translate_files(translator(), source, tmp_path / "out", "ct")
    assert images(tmp_path / "out") == whole
    assert set(tree(tmp_path / "out")) == set(tree(tmp_path / "whole"))


def test_folder_that_cannot_be_written_is_named_before_any_input_is_read(tmp_path, monkeypatch):
    source = folder_of(tmp_path / "in", "a.png")
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr("ctmr.translation.single.read_with_series", lambda *_: pytest.fail("read"))
    with pytest.raises(OutputError, match="cannot write it"):
        translate_files(translator(), source, tmp_path / "file" / "out", "ct")


def test_image_of_nothing_is_refused_unless_the_user_insists(tmp_path, tiny_run):
    for name, pixels in (
        ("blank", np.zeros((40, 40))),
        ("grey", np.full((40, 40), 77)),
        ("noise", np.random.default_rng(0).integers(0, 256, (40, 40))),
    ):
        save_grey(tmp_path / "all" / f"{name}.png", pixels.astype(np.uint8))
    model = load_model(tiny_run)
    with pytest.raises(SafetyError, match="3 of 3 scans cannot be translated") as caught:
        translate_files(model, tmp_path / "all", tmp_path / "out", "ct")
    found = caught.value.what
    assert re.search(
        r"expected an image of a head: found one grey value \(0\) .*\(blank\.png\)", found
    )
    assert re.search(
        r"expected an image of a head: found one grey value \(77\) .*\(grey\.png\)", found
    )
    assert re.search(r"scan is unlike the training data.*\(noise\.png\)", found)
    with pytest.raises(DataError, match="found one grey value"):
        translate_files(model, tmp_path / "all" / "blank.png", tmp_path / "out.png", "ct")
    assert [path.name for path in tmp_path.iterdir()] == ["all"]

    save_grey(tmp_path / "in" / "blank.png", np.zeros((40, 40), np.uint8))
    reading = Reading(anyway=True)
    summary = translate_files(
        model, tmp_path / "in", tmp_path / "out", "ct", quality="full", reading=reading
    )
    assert summary.warned == ("blank.png",)
    quality = read_sidecar(tmp_path / "out" / "blank.json")["quality"]
    assert any("deviation is 0, training images have" in why for why in quality["why"])


def written(folder: Path) -> dict[str, int]:
    """When each file of a folder was written, in nanoseconds."""
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*.*")}


def test_resume_leaves_what_was_written_of_the_same_scans(tmp_path):
    source = folder_of(tmp_path / "in", *(f"{n}.png" for n in range(10)))
    first = translate_files(translator(), source, tmp_path / "out", "ct")
    assert (first.written, first.kept) == (10, 0)
    before, whole = written(tmp_path / "out"), tree(tmp_path / "out")
    for name in (
        "3.png",
        *(f"{n}.{end}" for n in (5, 7) for end in ("json", "png", "preview.png")),
    ):
        (tmp_path / "out" / name).unlink()
    again = translate_files(translator(), source, tmp_path / "out", "ct", resume=True)
    assert (again.written, again.kept) == (3, 7)
    after = written(tmp_path / "out")
    new = {name for name, when in after.items() if before.get(name) != when} - {"ctmr.json"}
    ends = ("png", "preview.png", "json")
    assert new == {f"{n}.{end}" for n in (3, 5, 7) for end in ends}
    assert {k: v for k, v in tree(tmp_path / "out").items() if k.endswith("png")} == {
        k: v for k, v in whole.items() if k.endswith("png")
    }


def other_scan(source: Path) -> None:
    save(source / "0.png", seed=40)


def other_spacing(source: Path) -> None:
    write_image_info(source, "grey", (2.0, 2.0))


@pytest.mark.parametrize(
    ("change", "options", "kept"),
    [
        (None, {}, 2),
        (other_scan, {}, 1),
        (other_spacing, {}, 0),
        (None, {"quality": "full"}, 0),
        (None, {"reading": Reading(anyway=True)}, 0),
    ],
)
def test_resume_translates_again_what_has_changed(tmp_path, change, options, kept):
    source = folder_of(tmp_path / "in", "0.png", "1.png")
    translate_files(translator(), source, tmp_path / "out", "ct")
    if change is not None:
        change(source)
    summary = translate_files(translator(), source, tmp_path / "out", "ct", resume=True, **options)
    assert (summary.written, summary.kept) == (2 - kept, kept)


def test_resume_with_another_model_or_precision_translates_all_again(tmp_path, tiny_run):
    source = folder_of(tmp_path / "in", "0.png")
    first = load_model(tiny_run, engine="torch", precision="float32")
    card = first.model.card.model_copy(update={"sha256": "0" * 64})
    other = Translator(dataclasses.replace(first.model, card=card))
    faster = load_model(tiny_run, engine="torch", precision="bfloat16")
    believed = Reading(anyway=True)
    translate_files(first, source, tmp_path / "out", "mr", reading=believed)
    for model, kept in ((first, 1), (other, 0), (first, 0), (faster, 0), (faster, 1)):
        summary = translate_files(
            model, source, tmp_path / "out", "mr", reading=believed, resume=True
        )
        assert (summary.written, summary.kept) == (1 - kept, kept)


def test_resume_of_all_still_names_what_has_a_warning(tmp_path):
    source = folder_of(tmp_path / "in", "a.png")
    model = translator(usual=Usual({"mean": (-1.0, -0.9)}, 1.0, ANYWHERE))
    translate_files(model, source, tmp_path / "out", "ct")
    summary = translate_files(model, source, tmp_path / "out", "ct", resume=True)
    assert (summary.written, summary.kept, summary.warned) == (0, 1, ("a.png",))


def test_resume_names_all_that_cannot_be_read(tmp_path):
    source = folder_of(tmp_path / "in", "a.png", "b.png", "c.png")
    translate_files(translator(), source, tmp_path / "out", "ct")
    for name in ("a.png", "c.png"):
        (source / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 2 scans .*a\.png, c\.png"):
        translate_files(translator(), source, tmp_path / "out", "ct", resume=True)
    (source / "a.png").unlink()
    options = {"resume": True, "on_error": "skip"}
    summary = translate_files(translator(), source, tmp_path / "out", "ct", **options)
    assert (summary.written, summary.kept, summary.skipped) == (0, 1, ("c.png",))


def test_resume_never_takes_what_another_model_left_for_its_own(tmp_path, monkeypatch):
    source = folder_of(tmp_path / "in", "0.png")
    first, second = translator(), translator(generator=Brighter)
    card = second.model.card.model_copy(update={"sha256": "1" * 64})
    second = Translator(dataclasses.replace(second.model, card=card))
    translate_files(first, source, tmp_path / "out", "ct")
    whole = images(tmp_path / "out")
    with monkeypatch.context() as patch:  # ends after the image is written, before its sidecar
        patch.setattr(Translator, "correlations", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            translate_files(second, source, tmp_path / "out", "ct")
    assert images(tmp_path / "out") != whole
    unfinished = read_sidecar(tmp_path / "out" / "0.json")
    assert unfinished["unfinished"]
    assert unfinished["replaced"]["0.png"] != unfinished["outputs"]["0.png"]
    again = translate_files(first, source, tmp_path / "out", "ct", resume=True)
    assert (again.written, again.kept) == (1, 0)
    assert images(tmp_path / "out") == whole


def test_resume_translates_again_what_is_incomplete_and_keeps_what_is_not_known(tmp_path):
    source = folder_of(tmp_path / "in", "0.png", "1.png", "2.png", "3.png")
    out = tmp_path / "out"
    translate_files(translator(), source, out, "ct", quality="full")
    whole = tree(out)
    (out / "0.png").write_bytes(b"junk")
    (out / "quality" / "1_cycle_error.png").unlink()
    sidecar = read_sidecar(out / "2.json")
    (out / "2.json").write_text(json.dumps({"request_sha256": sidecar["request_sha256"]}))
    (out / f".{'0' * 16}.tmp").write_bytes(b"half")
    options = {"quality": "full", "resume": True}
    with pytest.raises(OutputError, match=r"0\.png: .* found another, which is kept, and 5 more"):
        translate_files(translator(), source, out, "ct", **options)
    assert (out / "0.png").read_bytes() == b"junk"
    again = translate_files(translator(), source, out, "ct", overwrite=True, **options)
    assert (again.written, again.kept) == (3, 1)
    assert tree(out).keys() == whole.keys()
    assert {k: v for k, v in tree(out).items() if k.endswith(".png")} == {
        k: v for k, v in whole.items() if k.endswith(".png")
    }


def test_resume_says_hu_and_spacing_of_what_is_kept_too(tmp_path):
    model = translator(ct={"HU": HU}, mr={"8-bit": GREY_8})
    source = folder_of(tmp_path / "in", "0.png", "1.png")
    write_image_info(source, "grey", None, {"0.png": (2.0, 2.0), "1.png": (3.0, 3.0)})
    translate_files(model, source, tmp_path / "out", "ct")
    (tmp_path / "out" / "ctmr.json").unlink()
    (tmp_path / "out" / "1.png").unlink()
    again = translate_files(model, source, tmp_path / "out", "ct", resume=True)
    assert (again.written, again.kept) == (1, 1)
    kept = read_image(tmp_path / "out" / "0.png")
    assert (kept.unit, kept.spacing_mm) == ("HU", (2.0, 2.0))
    write_image_info(
        source, "grey", None, {"0.png": (2.0, 2.0)}
    )  # the other's is not known any more
    again = translate_files(model, source, tmp_path / "out", "ct", resume=True)
    assert (again.written, again.kept) == (1, 1)
    assert read_image(tmp_path / "out" / "1.png").spacing_mm is None

"""What a store of many slices takes: start-up, memory, samples a second.

    python benchmarks/scale.py store --slices 1000000
    python benchmarks/scale.py seen --images 100000

`store` writes a store of one shard, into which many records of the index point, so that 41 GB need not exist; then it
opens it and draws samples in a new process. `--earlier` does the same with the format of ctmr 0.2.0, which needs the ctmr of
then: put its `src` into PYTHONPATH. `seen` makes a folder of many small images, which a store in the cache is made of,
and finds that store again.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SIDE = 144  # pixels of a slice; crops have 128
IN_SHARD = 500  # slices that exist
SAMPLES = 4000
CHILD = """
import json, sys, time
from pathlib import Path
import psutil
from ctmr.config import PRESETS
from ctmr.data.dataset import UnpairedSlices
from ctmr.data.prepare import prepare
config = PRESETS["small"].data.model_copy(update={"size": 128, "match_heights": sys.argv[2] == "1"})
process = psutil.Process()
before, start = process.memory_info().rss, time.perf_counter()
store = prepare(Path(sys.argv[1]), config)
samples = UnpairedSlices(store, config, 0)
samples[0]
opened = time.perf_counter() - start
for n in range(500):
    samples[n]
start = time.perf_counter()
for n in range(1000, 1000 + int(sys.argv[3])):
    samples[n]
rate = int(sys.argv[3]) / (time.perf_counter() - start)
import pickle
print(json.dumps({
    "seconds_to_first_sample": round(opened, 3),
    "mb": round((process.memory_info().rss - before) / 1e6, 1),
    "samples_per_second": round(rate),
    "sent_to_a_worker_bytes": len(pickle.dumps(samples)),
}))
"""


def main() -> None:
    """Print a row of figures as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("store", "seen"))
    parser.add_argument("--slices", type=int, default=1000)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--heights", action="store_true", help="slices of volumes, matched")
    parser.add_argument("--earlier", action="store_true", help="the format of ctmr 0.2.0")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["CTMR_CACHE"] = str(Path(scratch, "cache"))
        place = Path(scratch, "store")
        if options.what == "seen":
            print(json.dumps({"images": options.images} | seen(Path(scratch), options.images)))
            return
        write = write_earlier if options.earlier else write_store
        write(place, options.slices, heights=options.heights)
        command = [sys.executable, "-c", CHILD, str(place), str(int(options.heights))]
        found = subprocess.run(
            [*command, str(options.samples)], check=True, capture_output=True, text=True
        )
        print(json.dumps({"slices": options.slices} | json.loads(found.stdout.splitlines()[-1])))


def shard_content() -> bytes:
    """`IN_SHARD` slices of noise."""
    codes = np.random.default_rng(0).integers(0, 2**16, (IN_SHARD, SIDE, SIDE, 1), np.uint16)
    return codes.astype("<u2").tobytes()


def write_store(place: Path, slices: int, *, heights: bool) -> None:
    """A store whose index points into one shard again and again; half of it is CT."""
    from ctmr.data.manifest import MANIFEST_NAME, Entry, Manifest, shard_name
    from ctmr.data.parts import part_of
    from ctmr.data.records import checksum
    from ctmr.data.writing import write_index
    from ctmr.imaging.intensity import PICTURES
    from ctmr.imaging.resampling import Scale

    place.mkdir()
    content, length = shard_content(), 2 * SIDE * SIDE
    (place / shard_name(0)).write_bytes(content)
    checksums = [checksum(content[n * length : (n + 1) * length]) for n in range(IN_SHARD)]
    # From the end, so that the last record is that of the last slice.
    which = (IN_SHARD - 1 - np.arange(slices, dtype=np.int64)[::-1]) % IN_SHARD
    entries = (
        Entry(f"a{n // 150:05d}.nii.gz#{n % 150:03d}", None, SIDE, SIDE, f"{n:064x}", mm)
        for n, mm in enumerate(heights_of(slices, heights))
    )
    zeros = np.zeros(slices, np.uint32)
    parts = write_index(
        place, entries, zeros, (which * length).astype(np.uint32), np.array(checksums)[which]
    )
    half = slices // 2
    manifest = Manifest(
        fingerprint="0" * 64,
        size=128,
        channels=1,
        ct_window="piecewise",
        pixel_mm=1.25,
        patient_pattern=None,
        scale=Scale(round(1.12 * 128), 1.25),
        intensities={m: {"8-bit": PICTURES["8-bit"]} for m in ("ct", "mr")},
        counts={"train": {"ct": half, "mr": slices - half}, "test": {"ct": 0, "mr": 0}},
        heights=heights,
        overlap={},
        parts=parts | {shard_name(0): part_of(place / shard_name(0))},
    )
    (place / MANIFEST_NAME).write_text(manifest.as_json())


def heights_of(slices: int, known: bool) -> list[float | None]:
    """The height of each slice, as volumes of two spacings have them."""
    if not known:
        return [None] * slices
    return [round(float((1.0, 1.3)[n // 150 % 2] * (n % 150)), 3) for n in range(slices)]


def write_earlier(place: Path, slices: int, *, heights: bool) -> None:
    """The same in the earlier format, whose slices lie one after the other: as many as there are, as holes of a file."""
    place.mkdir()
    length = SIDE * SIDE
    with (place / "slices.u16").open("wb") as stream:
        stream.write(shard_content()[: 2 * length * slices])
        stream.truncate(2 * length * slices)
    entries = [
        {
            **{"name": f"a{n // 150:05d}.nii.gz#{n % 150:03d}", "patient": None},
            **{"height": SIDE, "width": SIDE, "offset": n * length, "sha256": f"{n:064x}"},
            "height_mm": mm,
        }
        for n, mm in enumerate(heights_of(slices, heights))
    ]
    from ctmr.data.copies import sha256_of
    from ctmr.imaging.intensity import PICTURES

    half = slices // 2
    map_ = {"unit": PICTURES["8-bit"].unit, "values": PICTURES["8-bit"].values}
    manifest = {
        **{"format": "ctmr store 3", "fingerprint": "0" * 64, "size": 128, "channels": 1},
        **{"ct_window": "piecewise", "pixel_mm": 1.25, "patient_pattern": None},
        "scale": {"short_side": round(1.12 * 128), "pixel_mm": 1.25},
        "intensities": {m: {"8-bit": map_} for m in ("ct", "mr")},
        "entries": {
            "train": {"ct": entries[:half], "mr": entries[half:]},
            "test": {"ct": [], "mr": []},
        },
        "overlap": [],
        "slices_sha256": sha256_of(place / "slices.u16"),
    }
    (place / "store.json").write_text(json.dumps(manifest, indent=1))


def seen(scratch: Path, images: int) -> dict[str, float]:
    """Seconds to find the store of a folder of small images, at the second call and after one file was touched."""
    from PIL import Image as Pillow

    from ctmr.config import PRESETS
    from ctmr.data.prepare import prepare

    rng = np.random.default_rng(0)
    contents = []
    for _ in range(20):
        Pillow.fromarray(rng.integers(0, 255, (36, 36), np.uint8)).save(scratch / "one.png")
        contents.append((scratch / "one.png").read_bytes())
    for letter in "AB":
        folder = scratch / "data" / f"train{letter}"
        folder.mkdir(parents=True)
        for n in range(images // 2):
            (folder / f"image_{n:07d}.png").write_bytes(contents[n % 20] + b"%d" % n)
    config = PRESETS["small"].data.model_copy(update={"size": 32})
    took: dict[str, float] = {}
    for name in ("first", "second", "third"):
        start = time.perf_counter()
        prepare(scratch / "data", config)
        took[f"{name}_seconds"] = round(time.perf_counter() - start, 3)
    return took


if __name__ == "__main__":
    main()

"""What `ctmr view` takes: memory, start, drop to result against `ctmr translate`, and 50 jobs in a row.

    python benchmarks/view.py [--slices 20 180] [--turns 3] [--jobs 50]

Prints a table. It wants a quiet machine; the server's temporary folder is removed at the end. `--jobs 0` leaves out the row.
"""

import argparse
import gzip
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from ctmr import Volume, write_scan
from ctmr.synthetic.head import synthesise_head
from ctmr.viewer.pages import PAGE
from support.view import Client, view


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def head(folder: Path, slices: int) -> Path:
    """An MR of a synthetic head, slices of 256 x 256."""
    made = synthesise_head(5, shape=(256, 256, slices), spacing_mm=(1, 1, 180 / slices))
    path = folder / f"{slices}.nii.gz"
    write_scan(path, Volume(made.mr.astype(np.float32), made.affine, "mr"))
    return path


def by_command(scan: Path, folder: Path) -> None:
    shutil.rmtree(folder / "out", ignore_errors=True)
    (folder / "out").mkdir()
    words = [
        sys.executable,
        "-m",
        "ctmr",
        "translate",
        str(scan),
        str(folder / "out"),
        "--to",
        "ct",
    ]
    subprocess.run(words, check=True, capture_output=True)


def by_page(client: Client, scan: Path, *, ready: bool) -> float:
    """Seconds from the drop to the result; without a child made ready it is started then."""
    if not ready:
        end_children(client)
    started = time.perf_counter()
    job = client.upload(scan.read_bytes())
    client.look(job)
    client.result(job, "ct")
    taken = time.perf_counter() - started
    client.ask("DELETE", f"/jobs/{job}")
    time.sleep(4 if ready else 0)  # the next child gets ready
    return taken


def end_children(client: Client) -> None:
    text = Path(f"/proc/{client.process.pid}/task/{client.process.pid}/children").read_text()
    for word in text.split():
        subprocess.run(["kill", "-9", word], check=False)
    time.sleep(0.5)


def turns(client: Client, scan: Path, folder: Path, count: int) -> dict[str, float]:
    """Medians of the command, the page, and the page without a child made ready, in turn."""
    found: dict[str, list[float]] = {"command": [], "page": [], "page, child not ready": []}
    for _ in range(count):
        found["command"].append(seconds(lambda: by_command(scan, folder)))
        found["page"].append(by_page(client, scan, ready=True))
        found["page, child not ready"].append(by_page(client, scan, ready=False))
    return {name: statistics.median(values) for name, values in found.items()}


def state(client: Client, folder: Path) -> tuple[float, int, int]:
    """Memory in MB, open files and files of the server's folder."""
    files = len(list(Path(f"/proc/{client.process.pid}/fd").iterdir()))
    return client.memory_mb(), files, len(list(folder.rglob("*")))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--slices", type=int, nargs="*", default=[20, 180])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        started = time.perf_counter()
        with view(temporary=folder) as client:
            client.ask("GET", "/")
            print(f"start to page: {time.perf_counter() - started:.2f} s")
            time.sleep(5)
            print(f"server, idle: {client.memory_mb():.1f} MB")
            page = [path.read_bytes() for path in PAGE.iterdir()]
            own = [path.stat().st_size for path in PAGE.iterdir() if path.name != "niivue.js"]
            packed = sum(len(gzip.compress(content)) for content in page)
            print(f"page: {packed / 1e6:.2f} MB as gzip, {sum(own) / 1e3:.1f} kB of its own")
            for slices in options.slices:
                for what, taken in turns(
                    client, head(folder, slices), folder, options.turns
                ).items():
                    print(f"{slices} slices, {what}: {taken:.2f} s")
            print(f"server, after jobs: {client.memory_mb():.1f} MB")
            small = head(folder, 3)
            for n in range(options.jobs):
                if n in (1, options.jobs - 1):
                    print(f"job {n + 1}: {state(client, folder)} MB, open files, files")
                job = client.upload(small.read_bytes())
                client.look(job)
                client.result(job, "ct", reading={"anyway": True})
                client.ask("DELETE", f"/jobs/{job}")


if __name__ == "__main__":
    main()

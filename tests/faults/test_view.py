"""`ctmr view` under fire: bombs, slow bytes, full disks, no network, many scans; and the page with WebGL."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

from ctmr import Volume, write_scan
from ctmr.io.dicom.writer import phantom_series
from ctmr.synthetic.head import synthesise_head
from support.browser import drop, page_of, steady
from support.command import by_command
from support.view import Client, view

ORIENTATIONS = ["RAS", "LAS", "LPS", "RPI", "ASR", "SAL", "IPR", "PIL"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with view(temporary=tmp_path_factory.mktemp("view")) as client:
        yield client


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MR of 12 slices as a file, and as a DICOM folder; and the CT of the same head."""
    folder = tmp_path_factory.mktemp("scans")
    head = synthesise_head(3, shape=(64, 64, 12), spacing_mm=(4, 4, 12))
    mr = Volume(head.mr.astype(np.float32), head.affine, "mr")
    write_scan(folder / "mr.nii.gz", mr)
    write_scan(folder / "ct.nii.gz", Volume(head.ct.astype(np.float32), head.affine, "ct"))
    (folder / "dicom").mkdir()
    phantom_series(folder / "dicom", mr, name="A", study="x")
    return folder


def children(client: Client) -> list[int]:
    text = Path(f"/proc/{client.process.pid}/task/{client.process.pid}/children").read_text()
    return [int(word) for word in text.split()]


def test_child_is_confined(served: Client, scans: Path) -> None:
    job = served.upload((scans / "mr.nii.gz").read_bytes())
    served.look(job)
    own = Path("/proc/self/ns/net").readlink()
    for child in children(served):
        limits = Path(f"/proc/{child}/limits").read_text()
        assert "Max core file size        0" in limits
        assert "Max open files            256" in limits
        assert f"Max file size             {4 * 2**30}" in limits
        if not Path("/dev/nvidiactl").exists():
            assert f"Max address space         {4 * 2**30}" in limits
        if subprocess.run(["unshare", "-n", "true"], check=False).returncode == 0:
            assert Path(f"/proc/{child}/ns/net").readlink() != own
        assert "Umask:\t0077" in Path(f"/proc/{child}/status").read_text()


def png(width: int, height: int) -> bytes:
    """A PNG whose header promises that many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            len(content).to_bytes(4, "big")
            + kind
            + content
            + zlib.crc32(kind + content).to_bytes(4, "big")
        )

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\0\0\0\0"
    data = zlib.compress(bytes(2**20))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def test_bombs_end_in_a_refusal_while_the_server_answers(
    served: Client, scans: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.dcm", bytes(2**28))
    gz = zlib.compressobj(9, wbits=31)
    nii = bytearray((352).to_bytes(4, "little") + bytes(400))
    nii[:4] = (348).to_bytes(4, "little")
    bombs = {
        "zip": (tmp_path / "a.zip").read_bytes(),
        "png": png(60_000, 60_000),
        "gzip": gz.compress(bytes(nii) + bytes(2**28)) + gz.flush(),
    }
    before = served.memory_mb()
    for name, content in bombs.items():
        job = served.upload(content)
        served.ask("POST", f"/jobs/{job}/look", b"")
        while served.ask("GET", f"/jobs/{job}").json["state"] == "looking":
            started = time.monotonic()
            assert served.ask("GET", "/health").json == {"ok": True}
            assert time.monotonic() - started < 2
            time.sleep(0.05)
        shown = served.ask("GET", f"/jobs/{job}")
        assert (shown.json["state"], shown.status) == ("failed", 422), name
        served.ask("DELETE", f"/jobs/{job}")
    assert served.memory_mb() - before <= 10


def test_slow_requests_are_closed(served: Client, scans: Path) -> None:
    job = served.ask("POST", "/jobs", b"").json["id"]
    head = (
        f"PUT /jobs/{job}/files/{'c' * 32} HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n"
        f"Cookie: {served.cookie}\r\nOrigin: {served.origin}\r\nX-CTMR: 1\r\nContent-Length: 1000\r\n\r\nabc"
    )
    started = time.monotonic()
    found = [b"", b""]

    def slow(n: int, content: bytes) -> None:
        with socket.create_connection(("127.0.0.1", served.port), timeout=60) as connection:
            connection.sendall(content)
            found[n] = connection.recv(4096)

    threads = [
        threading.Thread(target=slow, args=(0, head.encode())),
        threading.Thread(target=slow, args=(1, b"GET / HTTP/1.1\r\nHos")),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - started < 40
    assert found[0].startswith(b"HTTP/1.1 408")
    assert found[1] == b""
    assert served.ask("GET", f"/jobs/{job}").json["state"] == "new"
    served.ask("DELETE", f"/jobs/{job}")


def test_four_scans_at_once_come_out_as_one_after_another(served: Client, scans: Path) -> None:
    content = (scans / "mr.nii.gz").read_bytes()
    jobs = [served.upload(content) for _ in range(4)]
    for job in jobs:
        served.look(job)
    for job in jobs:
        assert served.translate(job, "ct").status == 202
    states = [served.ask("GET", f"/jobs/{job}").json["state"] for job in jobs]
    assert states.count("running") <= 1
    done = [served.wait(job, "done", "failed", limit=300)["state"] for job in jobs]
    assert done == ["done"] * 4
    assert len({served.ask("GET", f"/jobs/{job}/results/result").body for job in jobs}) == 1
    for job in jobs:
        served.ask("DELETE", f"/jobs/{job}")


def test_dicom_and_archive_come_out_as_the_command_writes_them(
    served: Client, scans: Path, tmp_path: Path
) -> None:
    paths = sorted((scans / "dicom").iterdir())
    (tmp_path / "scan").mkdir()
    for n, path in enumerate(paths, 1):
        shutil.copy(path, tmp_path / "scan" / f"{n:04}.dcm")
    out = by_command(tmp_path, "ct") / "translation"
    expected = {path.name: path.read_bytes() for path in out.iterdir()}
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for n, path in enumerate(paths):
            archive.write(path, f"../<img src=x>{n:03}")
    for contents in ([path.read_bytes() for path in paths], [(tmp_path / "a.zip").read_bytes()]):
        job = served.upload(*contents)
        assert served.look(job)["look"]["kind"] == "series"
        done = served.result(job, "ct")
        assert done["state"] == "done", done
        (tmp_path / "b.zip").write_bytes(served.ask("GET", f"/jobs/{job}/results/result").body)
        with zipfile.ZipFile(tmp_path / "b.zip") as archive:
            found = {name.rpartition("/")[2]: archive.read(name) for name in archive.namelist()}
        assert found == expected
        assert served.ask("GET", f"/jobs/{job}/results/volume").body[:2] == b"\x1f\x8b"


def test_full_disk_is_said_and_leaves_nothing(tmp_path: Path, scans: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting is not allowed")
    try:
        with view(temporary=folder) as client:
            job = client.ask("POST", "/jobs", b"").json["id"]
            answer = client.ask("PUT", f"/jobs/{job}/files/{'d' * 32}", bytes(8 * 2**20))
            assert (answer.status, answer.json["error"]["code"]) == (507, "E400")
            assert client.ask("GET", "/health").json == {"ok": True}
            job = client.upload((scans / "mr.nii.gz").read_bytes())
            assert client.look(job)["state"] == "looked"
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def test_everything_works_without_a_network(tmp_path: Path, scans: Path) -> None:
    if subprocess.run(["unshare", "-n", "true"], check=False).returncode != 0:
        pytest.skip("a network namespace is not allowed")
    script = tmp_path / "inside.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom support.view import view\n"
        "with view(temporary=Path(sys.argv[1])) as client:\n"
        "    job = client.upload(Path(sys.argv[2]).read_bytes())\n"
        "    client.look(job)\n"
        "    print(client.result(job, 'ct')['state'])\n"
    )
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    words = 'ip link set lo up 2>/dev/null || ifconfig lo up; exec "$@"'
    result = subprocess.run(
        [
            *("unshare", "-n", "sh", "-c", words, "sh"),
            *(sys.executable, str(script), str(tmp_path), str(scans / "mr.nii.gz")),
        ],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert result.stdout.strip() == "done", result.stderr


def test_jobs_in_a_row_leave_memory_files_and_folders_flat(tmp_path: Path, scans: Path) -> None:
    """Two at a time, as each waits for a child that gets ready; after the first two nothing grows.

    `benchmarks/view.py` does the same with fifty.
    """
    head = synthesise_head(3, shape=(64, 64, 3), spacing_mm=(4, 4, 40))
    write_scan(tmp_path / "a.nii.gz", Volume(head.mr.astype(np.float32), head.affine, "mr"))
    content, states = (tmp_path / "a.nii.gz").read_bytes(), list[str]()
    (tmp_path / "server").mkdir()

    with view(temporary=tmp_path / "server") as client:

        def work(count: int) -> None:
            for _ in range(count):
                job = client.upload(content)
                client.look(job)
                states.append(client.result(job, "ct", reading={"anyway": True})["state"])
                client.ask("DELETE", f"/jobs/{job}")

        def two(count: int) -> tuple[float, int, int]:
            threads = [threading.Thread(target=work, args=(count,)) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return at_rest(client, tmp_path / "server")

        first, last = two(1), two(3)
        assert states == ["done"] * 8
        assert last[0] - first[0] <= 10
        # Six jobs more; a child that is just made ready may have something open.
        assert last[1] <= first[1] + 3
        assert last[2] <= first[2] + 3


def at_rest(client: Client, folder: Path) -> tuple[float, int, int]:
    """Memory of a server in MB, its open files, and what lies in its folder, once the next child is ready."""
    until, found = time.monotonic() + 30, (0, 0)
    while time.monotonic() < until:
        time.sleep(1.5)  # longer than a child takes to make and delete what it rehearses with
        files = len(list(Path(f"/proc/{client.process.pid}/fd").iterdir()))
        before, found = found, (files, len(list(folder.rglob("*"))))
        if found == before:
            break
    return client.memory_mb(), *found


def turned(axes: str) -> Volume:
    """A CT of a ball, brighter on the patient's right, at the front and above, stored with other axes."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in (48, 48, 24)], indexing="ij"))
    radius = np.sqrt((grid**2).sum(0))
    array = np.where(radius < 0.8, 40, -1000) + np.where((radius < 0.9) & (radius >= 0.8), 800, 0)
    wedge = (grid[0] > 0.2) & (grid[1] > -0.1) & (grid[2] > -0.1) & (radius < 0.7)
    array = np.where(wedge, 75, array).astype(np.float32)
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(axes))
    affine = np.diag([4.0, 4.0, 7.0, 1.0]) @ inv_ornt_aff(turn, array.shape)
    return Volume(np.ascontiguousarray(apply_orientation(array, turn), np.float32), affine, "ct")


@pytest.fixture(scope="module")
def wedges(served: Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """A wedge for each order of axes, translated and drawn; the jobs, the last of them the newest."""
    folder, jobs = tmp_path_factory.mktemp("wedges"), []
    for axes in ORIENTATIONS:
        write_scan(folder / "a.nii.gz", turned(axes))
        job = served.upload((folder / "a.nii.gz").read_bytes())
        assert served.look(job)["look"]["own_axes"] == axes
        done = served.result(job, "mr", slices=True, reading={"anyway": True})
        assert done["state"] == "done", done
        jobs.append(job)
    yield jobs
    for job in jobs:
        served.ask("DELETE", f"/jobs/{job}")


@pytest.mark.parametrize("webgl", [True, False])
def test_wedge_stands_at_the_left_for_eight_orders_of_axes(
    served: Client, wedges: list[str], webgl: bool
) -> None:
    """Of the four quarters of the pane, the one of the right and the front, or the top, holds the wedge's grey."""
    with page_of(served, webgl=webgl) as page:
        for n, axes in enumerate(reversed(ORIENTATIONS)):
            page.click(f"#scans li:nth-child({n + 1}) button")
            page.wait_for_selector("#values:has-text('HU')", timeout=60_000)
            assert ("no WebGL" in page.text_content("#view-note")) != webgl
            page.focus("#pane-source .screen")
            page.keyboard.press("1")  # 0 to 80 HU: 75 is 239, 40 is 128
            shown = steady(page, "source")
            for key in ("a", "c"):
                if key == "c":
                    page.keyboard.press("c")
                    shown = steady(page, "source", unlike=shown)
                assert bright_quarters(shown[..., 0]) == {("left", "top")}, (axes, key)


def bright_quarters(shown: np.ndarray[Any, Any]) -> set[tuple[str, str]]:
    """In which quarters of a pane the wedge is seen, the lines of the crosshair left out."""
    bright = (shown > 225) & (shown < 250)
    rows, columns = bright.shape[0] // 2, bright.shape[1] // 2
    sides = {"left": slice(columns - 15), "right": slice(columns + 15, None)}
    levels = {"top": slice(rows - 15), "bottom": slice(rows + 15, None)}
    counts = {
        (side, level): bright[levels[level], sides[side]].sum()
        for side in sides
        for level in levels
    }
    return {quarter for quarter, count in counts.items() if count * 5 > max(counts.values())}


def test_page_says_that_the_server_was_killed_and_the_next_one_sweeps(
    tmp_path: Path, scans: Path
) -> None:
    with view(temporary=tmp_path) as client, page_of(client) as page:
        drop(page, scans / "dicom")
        page.wait_for_selector("#go:focus", timeout=60_000)
        page.keyboard.press("Enter")
        page.wait_for_selector("#cancel:focus")
        client.process.kill()
        client.process.wait()
        page.wait_for_selector("#error:has-text('the server does not answer')", timeout=5000)
        assert not page.is_visible("#progress")
        (left,) = tmp_path.glob("ctmr-view-*")
    with view(temporary=tmp_path) as client, page_of(client) as page:
        assert not left.exists()
        assert page.locator("#scans li").count() == 0


SMALL = (
    *("data.size=32", "network.filters=4", "train.start=random", "network.blocks=1"),
    *("network.discriminator_filters=4", "train.log_every=1", "train.sample_every=50"),
)


def train(data: Path, run: Path) -> "subprocess.Popen[bytes]":
    words = [word for setting in SMALL for word in ("--set", setting)]
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "ctmr", "train", str(data), "--out", str(run)),
            *("--preset", "small", "--steps", "100", *words),
        ],
        stderr=subprocess.DEVNULL,
    )


def test_watched_training_ends_as_an_unwatched_one_and_its_curves_grow(
    tmp_path: Path, tiny_data: Path
) -> None:
    runs = tmp_path / "runs"
    other = train(tiny_data, runs / "unwatched")
    training = train(tiny_data, runs / "watched")
    while not (runs / "watched" / "log.jsonl").exists():
        assert training.poll() is None
        time.sleep(0.05)
    with view("--runs", str(runs), temporary=tmp_path) as client, page_of(client) as page:
        page.click("#tab-runs")
        page.wait_for_selector("#run-table tbody tr:nth-child(2)")
        for name in ("watched", "unwatched"):
            page.click(f"[aria-label='Show {name}']")
        first = page.locator(".run:has(h2:text-is('watched'))")
        seen = {int(first.get_attribute("data-rows") or 0)}
        while training.poll() is None:
            seen.add(int(first.get_attribute("data-rows") or 0))
            page.wait_for_timeout(200)
        page.wait_for_selector(".run:has(h2:text-is('watched'))[data-rows='100']")
        page.wait_for_selector(".run:has(h2:text-is('watched')) .state-done")
        assert len(seen) > 2
        assert other.wait(300) == 0
        page.wait_for_selector(".run:has(h2:text-is('unwatched')) .state-done")
        assert page.locator(".run").count() == 2
    names = [
        sorted(path.name for path in (runs / run / "checkpoints").iterdir())
        for run in ("watched", "unwatched")
    ]
    assert names[0] == names[1]  # a name has the hash of all weights and optimisers
    assert names[0]


@pytest.fixture(scope="module")
def drawn(served: Client, scans: Path) -> Iterator[Any]:
    """A page with WebGL that shows the MR and its translation."""
    with page_of(served, webgl=True) as page:
        drop(page, scans / "mr.nii.gz")
        page.wait_for_selector("#go:focus", timeout=60_000)
        page.keyboard.press("Enter")
        page.wait_for_selector("#values:has-text('HU')", timeout=120_000)
        yield page


def test_crosshair_of_one_pane_is_at_the_same_mm_in_the_others(drawn: Any) -> None:
    before = drawn.get_attribute("#values", "data-mm")
    box = drawn.locator("#pane-translation .screen").bounding_box()
    drawn.mouse.click(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.45)
    drawn.wait_for_selector(f"#values:not([data-mm='{before}'])")
    places = [line_places(steady(drawn, pane)) for pane in ("source", "translation", "blend")]
    assert places[0] == places[1] == places[2]
    across, down = (
        place / side for place, side in zip(places[0], (box["width"], box["height"]), strict=True)
    )
    assert abs(across - 0.6) < 0.05
    assert abs(down - 0.45) < 0.05
    label = drawn.get_attribute("#pane-source .screen", "aria-label")
    assert label.partition(": ")[2] == drawn.text_content("#values")


def line_places(shown: np.ndarray[Any, Any]) -> tuple[int, int]:
    """Column and row in which a pane is bluest: the crosshair."""
    blue = (shown[..., 2] - shown[..., 0]).clip(min=0)[20:-60, 20:-20]
    return int(blue.sum(0).argmax()) + 20, int(blue.sum(1).argmax()) + 20


def test_three_dimensions_turn_together(drawn: Any) -> None:
    drawn.focus("#pane-source .screen")
    drawn.keyboard.press("a")
    flat = {pane: steady(drawn, pane) for pane in ("source", "translation")}
    drawn.keyboard.press("r")
    drawn.wait_for_selector("#planes button[aria-pressed=true]:text-is('3-D')")
    solid = {pane: steady(drawn, pane, unlike=flat[pane]) for pane in flat}
    assert all(shown[:-60].std() > 5 for shown in solid.values())
    assert not drawn.is_visible("#pane-blend")
    box = drawn.locator("#pane-source .screen").bounding_box()
    drawn.mouse.move(box["x"] + 100, box["y"] + 100)
    drawn.mouse.down()
    drawn.mouse.move(box["x"] + 200, box["y"] + 130, steps=4)
    drawn.mouse.up()
    for pane, shown in solid.items():
        steady(drawn, pane, unlike=shown)
    drawn.keyboard.press("a")
    assert drawn.is_visible("#pane-blend")


def test_map_lies_over_the_source_as_far_as_the_slider_says(drawn: Any) -> None:
    drawn.click("#full")
    drawn.wait_for_selector("#over option[value=cycle_error]", state="attached", timeout=60_000)
    drawn.select_option("#over", "cycle_error")
    drawn.wait_for_selector("#values:has-text('cycle error')")
    shares = []
    for percent in ("0", "50", "100"):
        drawn.fill("#opacity", percent)
        drawn.wait_for_timeout(300)
        shown = steady(drawn, "blend")[:-60]  # without the mark below
        shares.append((shown[..., 0] - shown[..., 1]).clip(min=0).mean())  # red, and not white
    assert shares[0] < 0.1
    assert shares[0] + 0.2 < shares[1] < shares[2] - 0.2


def test_next_scan_is_dropped_onto_the_panes(drawn: Any, scans: Path) -> None:
    """NiiVue takes what falls onto it, and does nothing with it."""
    drop(drawn, scans / "ct.nii.gz")
    drawn.wait_for_selector("#order:has(#found:text-is('ct.nii.gz')) #go:focus", timeout=60_000)

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

import numpy as np
import pytest

from ctmr import Volume, write_scan
from ctmr.io.dicom.writer import phantom_series
from ctmr.synthetic.head import synthesise_head
from support.browser import page_of, pixels
from support.view import Client, view

ORIENTATIONS = ["RAS", "LAS", "LPS", "RPI", "ASR", "SAL", "IPR", "PIL"]

# Not yet seen to pass on a quiet machine: CTMR_VIEWER=all runs them.
unproven = pytest.mark.skipif(
    os.environ.get("CTMR_VIEWER") != "all", reason="not yet seen to pass: CTMR_VIEWER=all runs it"
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with view(temporary=tmp_path_factory.mktemp("view")) as client:
        yield client


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MR of 12 slices as a file, and as a DICOM folder."""
    folder = tmp_path_factory.mktemp("scans")
    head = synthesise_head(3, shape=(64, 64, 12), spacing_mm=(4, 4, 12))
    mr = Volume(head.mr.astype(np.float32), head.affine, "mr")
    write_scan(folder / "mr.nii.gz", mr)
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
    (tmp_path / "out").mkdir()
    from typer.testing import CliRunner

    from ctmr.cli.app import app

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        words = ["translate", "scan", "out/translation", "--to", "ct"]
        assert CliRunner().invoke(app, words).exit_code == 0
    expected = {path.name: path.read_bytes() for path in (tmp_path / "out/translation").iterdir()}
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
    import os

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


@unproven
def test_fifty_jobs_leave_memory_files_and_folders_flat(tmp_path: Path, scans: Path) -> None:
    head = synthesise_head(3, shape=(64, 64, 3), spacing_mm=(4, 4, 40))
    write_scan(tmp_path / "a.nii.gz", Volume(head.mr.astype(np.float32), head.affine, "mr"))
    content = (tmp_path / "a.nii.gz").read_bytes()
    with view(temporary=tmp_path) as client:
        states = []
        for _ in range(50):
            job = client.upload(content)
            client.look(job)
            done = client.result(job, "ct", reading={"anyway": True})
            assert done["state"] == "done", done
            client.ask("DELETE", f"/jobs/{job}")
            files = len(list(Path(f"/proc/{client.process.pid}/fd").iterdir()))
            states.append((client.memory_mb(), files, len(list(tmp_path.rglob("*")))))
        assert states[-1][0] - states[5][0] <= 5
        assert states[-1][1] <= states[5][1] + 3
        assert states[-1][2] == states[5][2]


def turned(axes: str) -> Volume:
    """A ball with a wedge on the patient's right, stored with other axes."""
    from nibabel.orientations import (
        apply_orientation,
        axcodes2ornt,
        inv_ornt_aff,
        ornt_transform,
    )

    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in (48, 48, 24)], indexing="ij"))
    radius = np.sqrt((grid**2).sum(0))
    array = np.where(radius < 0.8, 40, -1000) + np.where((radius < 0.9) & (radius >= 0.8), 800, 0)
    array = np.where((radius < 0.7) & (grid[0] > 0.2), 75, array).astype(np.float32)
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(axes))
    affine = np.diag([4.0, 4.0, 7.0, 1.0]) @ inv_ornt_aff(turn, array.shape)
    return Volume(np.ascontiguousarray(apply_orientation(array, turn), np.float32), affine, "ct")


@unproven
@pytest.mark.parametrize("webgl", [True, False])
def test_wedge_stands_at_the_left_for_eight_orders_of_axes(
    served: Client, tmp_path: Path, webgl: bool
) -> None:
    with page_of(served, webgl=webgl) as page:
        for axes in ORIENTATIONS:
            write_scan(tmp_path / f"{axes}.nii.gz", turned(axes))
            page.set_input_files("#files", [str(tmp_path / f"{axes}.nii.gz")])
            page.wait_for_selector("#go:visible", timeout=60_000)
            page.select_option("#to", "mr")
            if page.get_attribute("#options", "open") is None:
                page.click("#options summary")
            page.check("#anyway")
            page.click("#go")
            page.wait_for_selector("#result:visible", timeout=120_000)
            page.wait_for_selector("#values:has-text('HU')", timeout=120_000)
            page.focus("#pane-source .screen")
            page.keyboard.press("1")
            for key in ("a", "c"):
                page.keyboard.press(key)
                page.wait_for_timeout(1500)
                shown = pixels(page, "source")[..., 0]
                width = shown.shape[1]
                halves = shown[:, : width // 2 - 20], shown[:, width // 2 + 20 :]
                bright = [((half > 225) & (half < 250)).sum() for half in halves]
                assert bright[0] > 10 * max(1, bright[1]), (axes, key, bright)
            page.evaluate("() => 0")


def test_crosshair_of_one_pane_is_at_the_same_mm_in_the_others(served: Client, scans: Path) -> None:
    with page_of(served, webgl=True) as page:
        page.set_input_files("#files", [str(scans / "mr.nii.gz")])
        page.wait_for_selector("#go:visible", timeout=60_000)
        page.keyboard.press("Enter")
        page.wait_for_selector("#values:has-text('HU')", timeout=120_000)
        before = page.get_attribute("#values", "data-mm")
        box = page.locator("#pane-translation .screen").bounding_box()
        page.mouse.click(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.45)
        page.wait_for_timeout(3000)
        assert page.get_attribute("#values", "data-mm") != before
        values = page.get_attribute("#pane-source .screen", "aria-label")
        assert values.partition(": ")[2] == page.text_content("#values")


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


@unproven
def test_watched_training_ends_as_an_unwatched_one_and_its_curves_grow(
    tmp_path: Path, tiny_data: Path
) -> None:
    runs = tmp_path / "runs"
    assert train(tiny_data, runs / "unwatched").wait(300) == 0
    training = train(tiny_data, runs / "watched")
    while not (runs / "watched" / "log.jsonl").exists():
        assert training.poll() is None
        time.sleep(0.05)
    with view("--runs", str(runs), temporary=tmp_path) as client, page_of(client) as page:
        page.click("#tab-runs")
        page.wait_for_selector("#run-table tbody tr:nth-child(2)")
        for name in ("watched", "unwatched"):
            page.click(f"[aria-label='Show {name}']")
        page.wait_for_selector(".run[data-rows='100']")
        first = page.locator(".run:has(h2:text-is('watched'))")
        seen = {int(first.get_attribute("data-rows") or 0)}
        while training.poll() is None:
            seen.add(int(first.get_attribute("data-rows") or 0))
            page.wait_for_timeout(200)
        page.wait_for_selector(".run:has(h2:text-is('watched'))[data-rows='100']")
        page.wait_for_selector(".run:has(h2:text-is('watched')) .state-done")
        assert len(seen) > 2
        assert page.locator(".run").count() == 2
    names = [
        sorted(path.name for path in (runs / run / "checkpoints").iterdir())
        for run in ("watched", "unwatched")
    ]
    assert names[0] == names[1]  # a name has the hash of all weights and optimisers
    assert names[0]

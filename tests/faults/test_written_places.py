"""Every place that a command writes to, found by tracing: what others have there is kept, and inputs always are."""

import functools
import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from ctmr import write_scan
from ctmr.cli.app import app
from ctmr.imaging.volume import Volume
from ctmr.io.dicom.writer import phantom_series
from ctmr.io.image_info import write_image_info
from ctmr.io.nifti import read_nifti
from ctmr.system.ownership import RUN_FILES
from support import stand_ins, tiny

Put = Callable[[Path], object]
REAL = b"a real scan of somebody"
NETWORK = tiny.TINY
LOOKS = ["--set", "train.sample_every=1", "--set", "train.evaluate_every=1"]
TO_CT = ["--to", "ct", "--anyway"]
IMAGES, VOLUMES = ["--model", "@/run", *TO_CT], ["--model", "@/volume-run", *TO_CT]
DRAWN = re.compile(
    r"\.[0-9a-f]{16}((\.new)?\.tmp|\.partial|\.lock)(/|$)|/\.timing-"
)  # names drawn by lot
LISTS = r"(.*/)?(ctmr\.json|\.ctmr-outputs\.json)"
RUN = r"run\.lock|(checkpoints|samples|model|best|evaluation)(/.*)?"


@dataclass(frozen=True)
class Command:
    """A command line.

    Attributes:
        words: In which `@` stands for the folder that it works in.
        inputs: Files that it reads.
        kept: Pattern of the places at which a file of others is kept with `--overwrite` too.
        ends: The exit codes that are right.
        stand_in: A function of `stand_ins` to be called before.
    """

    words: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    kept: str = LISTS
    ends: tuple[int, ...] = (0,)
    stand_in: str | None = None


def command(*words: str, **options: object) -> Command:
    return Command(words, **options)


COMMANDS = {
    "demo": command(
        *("demo", "--out", "@/demo", "--minutes", "0.0001"),
        kept=rf"demo/(data(/.*)?|{RUN})|{LISTS}",
        stand_in="small_demo",
    ),
    "synth": command("synth", "@/heads", "--subjects", "1", "--size", "32", kept="heads(/.*)?"),
    "audit": command(
        *("audit", "@/data", "--out", "@/a.json", "--clean", "@/clean"),
        inputs=("data/trainA/ct_00.png",),
        kept=rf"clean(/.*)?|{LISTS}",
        ends=(0, 3),
    ),
    "prepare": command("prepare", "@/data", "@/store", *NETWORK[:4], kept="store(/.*)?"),
    "train": command(
        *("train", "@/data", "--out", "@/new-run", "--config", "@/settings.yaml", "--steps", "2"),
        *LOOKS,
        inputs=("data/trainA/ct_00.png", "data/val/ct/0.png", "settings.yaml"),
        kept=rf"new-run/({RUN})",
    ),
    "export": command("export", "@/run", "@/export", "--format", "onnx", kept="export(/.*)?"),
    "images": command(
        *("translate", "@/data/trainB", "@/out", *IMAGES),
        inputs=("data/trainB/mr_01.png", "data/trainB/ctmr.json"),
    ),
    "image": command(
        *("translate", "@/data/trainB/mr_00.png", "@/one.png", *IMAGES, "--quality", "full"),
        inputs=("data/trainB/mr_00.png",),
    ),
    "volume": command(
        *("translate", "@/volumes/test/mr/3.nii.gz", "@/one.nii.gz", *VOLUMES),
        inputs=("volumes/test/mr/3.nii.gz",),
    ),
    "volumes": command(
        *("translate", "@/volumes/test/mr", "@/out", *VOLUMES, "--quality", "full"),
        inputs=("volumes/test/mr/3.nii.gz",),
    ),
    "series": command(
        *("translate", "@/series/a", "@/one", *VOLUMES, "--quality", "full"),
        inputs=("series/a/slice_0001.dcm",),
        kept="one",
    ),
    "tree": command(
        *("translate", "@/series", "@/out", *VOLUMES),
        inputs=("series/b/c/slice_0002.dcm", "series/3.nii.gz"),
        kept="out/(a|b/c)",
    ),
    "like": command(
        *("translate", "@/series/3.nii.gz", "@/one", *VOLUMES, "--like", "@/series/a"),
        inputs=("series/3.nii.gz", "series/a/slice_0001.dcm"),
        kept="one",
    ),
    "evaluate": command(
        *("evaluate", "@/run", "@/pairs", "--out", "@/found", "--answers", "other=@/answers"),
        inputs=("pairs/mr/head00_slice00.png", "answers/mr/head01_slice01.png"),
    ),
    "bundled": command(
        *("translate", "@/volumes/test/mr/3.nii.gz", "@/ct/one.nii.gz", *TO_CT),
        inputs=("volumes/test/mr/3.nii.gz",),
        stand_in="bundled",
    ),
    "evaluate volumes": command(
        *("evaluate", "@/volume-run", "@/volumes/test", "--out", "@/found"),
        inputs=("volumes/test/ct/3.nii.gz",),
    ),
    "report": command("report", "@/copied-run", inputs=("copied-run/config.yaml",)),
    "fetch": command("fetch", "kaggle", "@/fetched", kept="fetched(/.*)?", stand_in="kaggle"),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_run, tiny_data, tiny_pairs, tiny_volumes, tiny_volume_run) -> Path:
    """What the commands read."""
    place = tmp_path_factory.mktemp("world") / "world"
    shutil.copytree(tiny_data, place / "data")
    for path in (place / "data/trainB").iterdir():
        if path.name > "mr_04":
            path.unlink()
    write_image_info(place / "data/trainB", "grey", (1.0, 1.0))
    for modality in ("ct", "mr"):
        (place / "data/val" / modality).mkdir(parents=True)
        for n in range(2):
            source = tiny_pairs / modality / f"head0{n}_slice00.png"
            shutil.copyfile(source, place / "data/val" / modality / f"{n}.png")
    shutil.copytree(tiny_run, place / "run")
    shutil.copyfile(tiny_run / "config.yaml", place / "settings.yaml")
    shutil.copytree(tiny_volume_run, place / "volume-run")
    (place / "copied-run").mkdir()  # without its lock it is no run
    for name in ("config.yaml", "log.jsonl"):
        shutil.copyfile(tiny_run / name, place / "copied-run" / name)
    shutil.copytree(tiny_pairs, place / "pairs")
    shutil.copytree(tiny_pairs, place / "answers")
    shutil.copytree(tiny_volumes, place / "volumes")
    scan = read_nifti(tiny_volumes / "test/mr/3.nii.gz")
    scan = Volume(np.rint(scan.array), scan.affine, "mr")
    for name in ("a", "b/c"):
        phantom_series(place / "series" / name, scan, name="P1", study=name)
    write_scan(place / "series" / "3.nii.gz", scan)
    (place / "series" / ".ctmr-outputs.json").unlink()
    return place


def contents(folder: Path) -> dict[str, bytes]:
    """Name -> bytes of all files."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def written_by(strace: str, its: Command, place: Path) -> tuple[list[str], list[str]]:
    """The files that a command writes below a folder, and the folders that it makes there, relative to it."""
    trace = place.parent / "trace"
    calls = "trace=openat,rename,renameat,renameat2,link,linkat,symlink,mkdir,truncate,unlink"
    words = [sys.executable, "-c", stand_ins.program(its.stand_in)]
    words += [word.replace("@", str(place)) for word in its.words]
    traced = [
        strace,
        "--seccomp-bpf",
        "-f",
        "-qq",
        "-s",
        "500",
        "-e",
        calls,
        "-o",
        str(trace),
        *words,
    ]
    done = subprocess.run(traced, capture_output=True, text=True, timeout=170)
    assert done.returncode in its.ends, done.stderr
    files, folders = set[str](), set[str]()
    for line in trace.read_text(errors="replace").splitlines():
        if " = -1 " in line or "O_TMPFILE" in line:  # failed, or a file without a name
            continue
        if "openat(" in line and not re.search("O_WRONLY|O_RDWR|O_CREAT", line):
            continue
        for path in map(Path, re.findall(r'"([^"]+)"', line)[-1:]):
            if path.is_relative_to(place) and not DRAWN.search(str(path)):
                (folders if "mkdir(" in line else files).add(path.relative_to(place).as_posix())
    return sorted(files), sorted(folders - files)


@dataclass(frozen=True)
class Scene:
    """A command, the files it writes, the folders it makes, and the folder in which it is tried again and again."""

    its: Command
    files: list[str]
    folders: list[str]
    world: Path
    place: Path

    @property
    def kept(self) -> list[str]:
        return [path for path in self.files if re.fullmatch(self.its.kept, path)]

    def renew(self) -> None:
        """Put everything back that the command reads, and nothing else."""
        shutil.rmtree(self.place)
        shutil.copytree(self.world, self.place)

    def run(self, *more: str) -> Result:
        words = [word.replace("@", str(self.place)) for word in self.its.words]
        with pytest.MonkeyPatch.context() as patch:
            if self.its.stand_in is not None:
                getattr(stand_ins, self.its.stand_in)(patch)
            return CliRunner().invoke(app, [*words, *more])

    def assert_refused(self, path: str, put: Put, codes: tuple[int, ...], *more: str) -> None:
        """The command ends with one of the codes where something was put, and nothing changes."""
        place = self.place / path
        new = [above for above in place.parents if not above.exists()]
        place.parent.mkdir(parents=True, exist_ok=True)
        put(place)
        try:
            before = contents(self.place)
            done = self.run(*more)
            assert done.exit_code in codes, (path, done.output, done.exception)
            assert contents(self.place) == before, path
            last = done.stderr.splitlines()[-1]
            assert last.startswith(f"error[E{done.exit_code}00]: "), last
        finally:
            for its in (place, *new):
                (Path.rmdir if its.is_dir() and not its.is_symlink() else Path.unlink)(its)


def foreign(place: Path) -> None:
    place.write_bytes(REAL)


@pytest.fixture(scope="module", params=COMMANDS)
def scene(request, strace, world, tmp_path_factory) -> Scene:
    its = COMMANDS[request.param]
    place = tmp_path_factory.mktemp("scene") / "world"
    shutil.copytree(world, place)
    files, folders = written_by(strace, its, place)
    assert files
    scene = Scene(its, files, folders, world, place)
    scene.renew()
    return scene


def test_no_place_that_is_written_to_is_taken_from_others(scene, record_property):
    for path in (*scene.files, *scene.folders):
        scene.assert_refused(path, foreign, (4,))
        record_property("places taken by a foreign file", 1)


def test_lists_stores_and_data_folders_are_kept_with_overwrite_too(scene, record_property):
    for path in (*scene.kept, *scene.folders):
        scene.assert_refused(path, foreign, (4,), "--overwrite")
        record_property("places kept with --overwrite", 1)


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_no_input_is_replaced_under_another_name(scene, link, record_property):
    for source, path in itertools.product(scene.its.inputs, scene.files):
        put = functools.partial(link, scene.place / source)
        for more in ((), ("--overwrite",)):
            scene.assert_refused(path, put, (2, 4) if path in scene.kept else (2,), *more)
            record_property("places taken by an input", 1)


def test_other_files_of_others_are_replaced_with_overwrite(scene, record_property):
    replaced = [path for path in scene.files if path not in scene.kept]
    alone = [path for path in replaced if path.endswith("/config.yaml")]  # with a log it is a run
    for paths in filter(None, ([path for path in replaced if path not in alone], alone)):
        scene.renew()
        before = contents(scene.place)
        for path in paths:
            (scene.place / path).parent.mkdir(parents=True, exist_ok=True)
            foreign(scene.place / path)
        done = scene.run("--overwrite")
        assert done.exit_code in scene.its.ends, done.output
        after = contents(scene.place)
        assert [path for path in paths if after.get(path) == REAL] == []
        assert after == after | before
        record_property("places replaced with --overwrite", len(paths))


OVER_ITSELF = {
    "image": ("translate", "@/data/trainB/mr_00.png", "@/data/trainB/mr_00.png", *IMAGES),
    "images": ("translate", "@/data/trainB", "@/data/trainB", *IMAGES),
    "volume": ("translate", "@/volumes/test/mr/3.nii.gz", "@/volumes/test/mr/3.nii.gz", *VOLUMES),
    "volume in": ("translate", "@/volumes/test/mr/3.nii.gz", "@/volumes/test/mr", *VOLUMES),
    "series": ("translate", "@/series/a", "@/series/a", *VOLUMES),
    "tree": ("translate", "@/series", "@/series", *VOLUMES),
    "like": ("translate", "@/series/3.nii.gz", "@/series/a", *VOLUMES, "--like", "@/series/a"),
    "audit": ("audit", "@/data", "--out", "@/data/trainA/a.json"),
    "config": ("train", "@/data", "--out", "@/begun", "--config", "@/begun/config.yaml"),
    "run": ("train", "@/data", "--out", "@/run", *NETWORK),
    "run of a demo": ("demo", "--out", "@/run"),
}


@pytest.mark.parametrize("name", OVER_ITSELF)
def test_no_input_and_no_run_is_replaced_under_its_own_name(world, tmp_path, name):
    place = tmp_path / "world"
    shutil.copytree(world, place)
    (place / "begun").mkdir()
    shutil.copyfile(place / "settings.yaml", place / "begun" / "config.yaml")
    scene = Scene(command(*OVER_ITSELF[name]), [], [], world, place)
    for more in ((), ("--overwrite",)):
        before = contents(place)
        done = scene.run(*more)
        assert done.exit_code == 2, (done.output, done.exception)
        assert contents(place) == before


def test_resumed_run_writes_only_what_is_a_runs_own(strace, world, tmp_path):
    place = tmp_path / "world"
    shutil.copytree(world, place)
    begin = Scene(COMMANDS["train"], [], [], world, place).run("--stop-after", "1")
    assert begin.exit_code == 0, begin.output
    others = [place / "new-run" / name for name in ("ct.nii.gz", "model/ct.nii.gz")]
    for path in others:
        foreign(path)
    files, _ = written_by(
        strace, command("train", "@/data", "--out", "@/new-run", "--resume"), place
    )
    own = "|".join(map(re.escape, ("config.yaml", *RUN_FILES)))
    assert len(files) > 5
    assert [path for path in files if not re.fullmatch(rf"new-run/({RUN}|{own})", path)] == []
    assert {path.read_bytes() for path in others} == {REAL}

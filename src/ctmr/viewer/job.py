"""What is done to an uploaded scan: look at it, translate it as the command line does, and draw what the page shows."""

import contextlib
import json
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ctmr.errors import CtmrError, DataError, SafetyError
from ctmr.imaging.ct_values import looks_like_hu
from ctmr.imaging.image import Image, Scan
from ctmr.imaging.modality import as_modality
from ctmr.imaging.volume import Volume
from ctmr.io.nifti import nifti_bytes, nifti_parts
from ctmr.io.reading import Reading
from ctmr.io.scan import DESCRIPTION, kind_of, read_with_series
from ctmr.io.voxels import slabs_of
from ctmr.models.bundle import HEAD
from ctmr.translation.batch import translate_files
from ctmr.translation.preprocessing import NetworkInput
from ctmr.translation.translator import Result, Translation, Translator, load_model
from ctmr.translation.uncertainty import QualityLevel
from ctmr.types import MODALITIES, OTHER, FloatArray, Modality
from ctmr.viewer.drawing import Shown, grid_of
from ctmr.viewer.sniff import ZIP
from ctmr.viewer.unpack import unpack

BALL = (48, 48, 12)
SERIES_NAME = "translation"  # of the folder of a translated DICOM series
SOURCE = "source.nii"


class _Watched(Translator):
    """A translator that readies for the page what it is given and what comes of it, in a thread, while it goes on.

    Attributes:
        beside: The thread.
        view: Folder for the source as the page loads it.
        last: What it was given, and what came of it.
        sides: Both, and maps, as the page shows them.
    """

    beside: Executor
    view: Path
    last: tuple[Scan, Translation[Scan]] | None = None
    sides: dict[str, Future[Shown]]

    def translation_of(
        self,
        made: NetworkInput,
        quality: QualityLevel,
        gather: Callable[[Iterator[FloatArray]], Result],
    ) -> Translation[Result]:
        """As that of any translator."""
        scan, to = made.scan, made.modality
        if isinstance(scan, Volume):  # a file does not say its modality
            scan = replace(scan.in_float(), modality=scan.modality or OTHER[to])
        self.sides = {"source": self.beside.submit(_source, self.view, scan, OTHER[to])}
        slices = made.room()

        def keep(planes: Iterator[FloatArray]) -> Iterator[FloatArray]:
            kept = 0
            for some in planes:
                slices[kept : kept + len(some)] = some
                kept += len(some)
                yield some

        done = super().translation_of(made, quality, lambda planes: gather(keep(planes)))
        whole = made.scan_of(slices)
        self.last = (scan, Translation(whole, done.quality, done.about, done.centre, done.maps))
        self.sides["translation"] = self.beside.submit(Shown, whole, to)
        for measure, share in done.maps.items():
            shown = _map(scan, share)
            self.sides[measure] = self.beside.submit(Shown, shown, to, unit="share of the range")
        return done


def _source(view: Path, scan: Scan, modality: Modality) -> Shown:
    """Write a volume as NiiVue loads it, and say how it is shown."""
    if isinstance(scan, Volume):
        path, text = view / SOURCE, "source, as ctmr view has read it"
        with path.open("wb") as file:
            file.writelines(nifti_parts(path, scan, text, slabs_of(scan)))
    return Shown(scan, modality)


def _watched(model: str) -> _Watched:
    made = load_model(model)
    watched = _Watched(made.model, engine=made.engine, precision=made.precision)
    watched.beside = ThreadPoolExecutor(1)
    return watched


class Job:
    """A scan on its way from the upload to the page.

    Args:
        say: Sends an answer to the server.
    """

    def __init__(self, say: Callable[..., None]) -> None:
        self._say: Callable[..., None] = lambda **_: None
        self._translators = {HEAD: _watched(HEAD)}
        self._rehearse()
        self._say = say

    def _rehearse(self) -> None:
        """Translate a ball, so that all that is imported or loaded when it is first used is there."""
        for module in ("series", "writer"):
            import_module(f"ctmr.io.dicom.{module}")
        sides = np.meshgrid(*[np.linspace(-1, 1, n) for n in BALL], indexing="ij")
        ball = np.where(sum(side**2 for side in sides) < 0.6, 500, 0).astype(np.float32)
        volume = Volume(ball, np.diag([4.0, 4.0, 16.0, 1.0]), "mr")
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
            folder = Path(name)
            (folder / "scan").mkdir()
            content = nifti_bytes(folder / "0001.nii.gz", volume, "a ball")
            (folder / "scan" / "0001.nii.gz").write_bytes(content)
            reading = {"anyway": True, "series": []}
            order = {"to": "ct", "model": HEAD, "quality": "fast", "slices": False}
            before = os.getcwd()
            os.chdir(folder)
            with contextlib.suppress(CtmrError):
                self.look(folder)
                self.translate(folder, order | {"reading": reading})
            os.chdir(before)

    def look(self, folder: Path) -> None:
        """Unpack archives, and say what the scan is: kind, size, spacing, modality, and the series to choose from."""
        scans, left_out = folder / "scan", 0
        for archive in sorted(scans.glob("*" + ZIP)):
            packed = archive.rename(folder / "packed.zip")
            left_out += unpack(packed, scans, len(list(scans.iterdir())) + 1)
            packed.unlink()
        source = _one_scan(scans)
        kind = "series" if source == scans else kind_of(source)
        found: dict[str, Any] = {"kind": kind, "left_out": left_out, "series": []}
        if kind == "series":
            found |= _series_in(source)
        if not found["series"]:
            try:
                scan = read_with_series(source, reading=Reading(irregular=True))[0]
                found |= grid_of(scan) | {"modality": self._modality(scan)}
            except SafetyError as error:  # an option may be the way out
                found["problem"] = str(error).replace(f"{folder}/", "")
        self._say(look=found)

    def _modality(self, scan: Scan) -> Modality | None:
        """What it is by its header or its values; None where nothing tells."""
        if isinstance(scan, Volume):
            if scan.modality is not None or looks_like_hu(scan.array):
                return scan.modality or "ct"
            with contextlib.suppress(CtmrError):
                return as_modality(scan, "mr").modality
            return None
        for modality in MODALITIES:
            with contextlib.suppress(CtmrError):
                self._translators[HEAD].check(scan, OTHER[modality])
                return modality
        return None

    def translate(self, folder: Path, order: dict[str, Any]) -> None:
        """Translate it, and write what the page shows and offers into `view/`."""
        out, view = _empty(folder / "out"), _empty(folder / "view")
        source = _one_scan(folder / "scan")
        to, model, started = order["to"], order["model"], time.monotonic()
        if model not in self._translators:
            self._translators[model] = _watched(model)
        translator = self._translators[model]
        translator.watch, translator.view = _Pace(self._say), view
        series = source == folder / "scan"
        translate_files(
            translator,
            source.relative_to(folder),
            Path("out", SERIES_NAME) if series else Path("out"),
            to,
            quality=order["quality"],
            reading=Reading(**order["reading"] | {"series": tuple(order["reading"]["series"])}),
        )
        if translator.last is None:
            raise DataError("expected a translation: found none", fix="drop the scan again")
        scan, done = translator.last
        self._say(progress={"done": 1, "total": 1, "left": 0, "drawing": True})
        sides = {name: shown.result() for name, shown in translator.sides.items()}
        about: dict[str, Any] = {
            "kind": "image" if isinstance(scan, Image) else "volume",
            "panes": {name: shown.about for name, shown in sides.items()},
            "grid": grid_of(scan),
            "slices": bool(order["slices"]) or isinstance(scan, Image),
            "sidecar": _sidecar(out),
            "files": _write_files(view, out, scan, done),
        }
        if about["slices"]:
            for name, shown in sides.items():
                shown.draw(view, name)
        about["seconds"] = round(time.monotonic() - started, 3)
        (view / "view.json").write_text(json.dumps(about), encoding="utf-8")
        self._say(done=True)


class _Pace:
    """Says how many slices are done, and how many seconds the others will take.

    Args:
        say: Sends an answer to the server.
    """

    def __init__(self, say: Callable[..., None]) -> None:
        self._say, self._first = say, (0, 0.0)

    def __call__(self, done: int, total: int) -> None:
        """Say it; the first slices, in which the network is compiled, do not count for the pace."""
        now = time.monotonic()
        first, at = self._first
        if done <= first or not first:
            self._first = (done, now)
            left = None
        else:
            left = round((total - done) * (now - at) / (done - first), 1)
        self._say(progress={"done": done, "total": total, "left": left})


def _write_files(view: Path, out: Path, scan: Scan, done: Translation[Scan]) -> dict[str, str]:
    """Write what the page offers beside what the command wrote: name -> path below the job's folder."""
    sidecar = _sidecar_path(out)
    result = sidecar.parent / _sidecar(out)["result"]
    files = {"sidecar": sidecar, "preview": sidecar.with_name(sidecar.stem + ".preview.png")}
    if isinstance(scan, Volume) and isinstance(done.scan, Volume):
        files["source-volume"] = view / SOURCE
        files["volume"] = result
        if result.is_dir() or not result.name.endswith((".nii", ".nii.gz")):
            files["volume"] = view / "translation.nii.gz"
            files["volume"].write_bytes(nifti_bytes(files["volume"], done.scan, DESCRIPTION))
    files["result"] = result
    if result.is_dir():
        files["result"] = view / "translation.zip"
        _pack(result, files["result"])
    for measure in done.maps:
        (files[measure],) = sidecar.parent.glob(f"quality/*_{measure}.*")
    return {name: str(path.relative_to(view.parent)) for name, path in files.items()}


def _pack(folder: Path, target: Path) -> None:
    """Put the files of a folder into an archive that follows from them alone."""
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.writestr(zipfile.ZipInfo(f"{folder.name}/{path.name}"), path.read_bytes())


def _sidecar_path(out: Path) -> Path:
    """The one sidecar below a folder of outputs."""
    (preview,) = out.rglob("*.preview.png")
    return preview.with_name(preview.name.removesuffix(".preview.png") + ".json")


def _sidecar(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(_sidecar_path(out).read_bytes())
    return content


def _map(scan: Scan, share: FloatArray) -> Scan:
    """A map of uncertainty as a scan on the grid of its own."""
    if isinstance(scan, Image):
        return replace(scan, array=share, unit="grey")
    return replace(scan, array=share, modality="mr")


def _series_in(folder: Path) -> dict[str, Any]:
    """The series of a folder, as rows of numbers, and what the first scan among them shows."""
    from ctmr.io.dicom.grouping import list_series, series_rows

    series = list_series(folder).series
    chosen = next((one for one in series if one.kind == "scan"), None)
    rows = [list(row) for row in series_rows(series)]
    return {"series": rows if len(rows) > 1 else [], "modality": chosen and chosen.modality}


def _empty(folder: Path) -> Path:
    """A folder with nothing in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _one_scan(files: Path) -> Path:
    """The scan among uploaded files: their folder if they are DICOM, else the one file there is.

    Raises:
        DataError: If there is none, or more than one.
    """
    found = sorted(files.iterdir())
    dicom = [path for path in found if path.suffix == ".dcm"]
    if dicom:
        for path in found:
            if path not in dicom:
                path.unlink()
        return files
    if len(found) != 1:
        what = f"expected one scan: found {len(found)} volumes and pictures"
        raise DataError(what, fix="drop one DICOM folder, volume file, picture or .zip of these")
    return found[0]

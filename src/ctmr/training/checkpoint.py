"""A whole TrainState on disk and back: no pickle, verified before it is parsed, never half written."""

import contextlib
import hashlib
import json
import logging
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from ctmr.cyclegan.state import TrainState, require_finite, restore
from ctmr.errors import CheckpointError, OutputError
from ctmr.system.files import cannot_write, make_folder, write_bytes
from ctmr.system.ownership import CHECKPOINT_NAME

logger = logging.getLogger(__name__)

FORMAT: Literal[1] = 1
KEEP = 2
FREE_SPACE = 2.2  # times the size of a checkpoint that must be free before one is written


class Header(BaseModel):
    """What a checkpoint says beside its tensors; all of it is needed."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    format: Literal[1]
    step: int = Field(ge=0, lt=10**9)
    history: list[int] = Field(min_length=2, max_length=2)
    """Images in history_x and history_y."""
    config: dict[str, Any]
    data: str
    """Fingerprint of the store."""
    exact: dict[str, Any]
    """Versions, machine, device: what exactness depends on."""


def save(folder: Path, state: TrainState, about: Mapping[str, Any]) -> Path:
    """Write a checkpoint into `folder`, then remove all but the newest two that are sound.

    Args:
        folder: The run's `checkpoints/`.
        state: At a step's end.
        about: What `resume` has to know beside the tensors: `config`, `data` and `exact`.

    Raises:
        OutputError: If it cannot be written; earlier checkpoints are untouched.
        DivergedError: If a value is NaN or infinite.
    """
    require_finite(state, folder)
    kept = [len(history.images) for history in state.histories().values()]
    header = Header(format=FORMAT, step=state.step, history=kept, **about)
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.tensors().items()}
    content = to_bytes(tensors, {"ctmr": json.dumps(header.model_dump(), sort_keys=True)})
    _require_space(folder, len(content))
    digest = hashlib.sha256(content).hexdigest()
    path = folder / f"step_{state.step:09d}.{digest[:16]}.ckpt"
    write_bytes(path, content)
    _prune(folder, path)
    return path


def space_needed(state: TrainState) -> int:
    """Bytes that must be free to write checkpoints of such a state, once it has moments and full histories."""
    weights = sum(
        tensor.numel() * tensor.element_size() for tensor in state.model.state_dict().values()
    )
    averages = sum(
        tensor.numel() * tensor.element_size() for tensor in state.ema.state_dict().values()
    )
    kept = sum(history.capacity for history in state.histories().values())
    size: int = 3 * weights + averages + 4 * kept * math.prod(state.shape)
    return round(FREE_SPACE * size)


def _prune(folder: Path, newest: Path) -> None:
    """Remove what lies below the newest `KEEP` checkpoints that are sound."""
    sound = 0
    for path in checkpoints(folder):
        if sound == KEEP:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                logger.warning("an old checkpoint stays: %s: %s", path, error.strerror)
        elif path == newest or is_sound(path):
            sound += 1


def remove_all(folder: Path) -> None:
    """Remove the checkpoints in a folder that is no run yet.

    Raises:
        OutputError: If one cannot be removed.
    """
    for path in checkpoints(folder):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(path, error) from error


def is_sound(path: Path) -> bool:
    """Whether a checkpoint can be read and its content has the SHA-256 in its name."""
    with contextlib.suppress(CheckpointError):
        _verify(path)
        return True
    return False


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, newest step first."""
    found = [path for path in folder.glob("step_*.ckpt") if CHECKPOINT_NAME.fullmatch(path.name)]
    return sorted(found, reverse=True)


def resume(folder: Path, state: TrainState) -> Header:
    """Load the newest sound checkpoint of a folder into `state`; return what it says beside the tensors.

    One that is damaged or cannot be read is passed over with a warning; a damaged one is moved to `bad/`.

    Raises:
        CheckpointError: If none is sound, or it does not fit the state.
    """
    for path in checkpoints(folder):
        try:
            _verify(path)
        except CheckpointError as error:
            logger.warning("%s; going back to the checkpoint before", error)
            if not isinstance(error.__cause__, OSError):
                _put_aside(path, folder / "bad")
            continue
        header, tensors = _read(path)
        restore(state, tensors, header.step, header.history, path)
        return header
    raise CheckpointError(
        "expected a checkpoint, found none that is sound",
        file=folder,
        fix="start anew in another folder with --out",
    )


def _put_aside(path: Path, bad: Path) -> None:
    try:
        bad.mkdir(exist_ok=True)
        path.replace(bad / path.name)
    except OSError as error:
        logger.warning("cannot move it to %s: %s", bad, error.strerror)


def _verify(path: Path) -> None:
    """Refuse a file whose content's SHA-256 is not the one in its name.

    Raises:
        CheckpointError: Likewise if it cannot be read; the cause is then an OSError.
    """
    match = CHECKPOINT_NAME.fullmatch(path.name)
    expected = match.group(2) if match else ""
    try:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
    except OSError as error:
        raise CheckpointError(
            f"cannot be read ({error.strerror})", file=path, fix="check the disk and permissions"
        ) from error
    if found != expected:
        raise CheckpointError(
            f"damaged: expected sha256 {expected}..., found {found}...",
            file=path,
            fix="restore the file",
        )


def _read(path: Path) -> tuple[Header, dict[str, Tensor]]:
    """What a file that has been verified says, and its tensors."""
    try:
        with safe_open(path, "pt") as stored:
            content = json.loads((stored.metadata() or {})["ctmr"])
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
        stated = content["format"]
    except (SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise _foreign(path, str(error)) from error
    if stated != FORMAT:
        raise CheckpointError(
            f"expected checkpoint format {FORMAT}, found {stated!r}",
            file=path,
            fix="use the version of ctmr that wrote it",
        )
    try:
        header = Header.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise _foreign(path, f"{where}: {first['msg']}") from error
    if f"step_{header.step:09d}" != path.name.split(".")[0]:
        raise _foreign(path, f"it says step {header.step}")
    return header, tensors


def _foreign(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"not a checkpoint of ctmr ({why})", file=path, fix="restore the file")


def _require_space(folder: Path, size: int) -> None:
    try:
        make_folder(folder)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise cannot_write(folder, error, size) from error
    if free < FREE_SPACE * size:
        raise OutputError(
            f"a checkpoint needs {FREE_SPACE * size / 1e6:.0f} MB free, found {free / 1e6:.0f} MB",
            file=folder,
            fix="free space; the run goes on from its last checkpoint with --resume",
        )

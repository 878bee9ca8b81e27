"""What a run holds."""

import hashlib

from safetensors.torch import load_file

from ctmr.training.checkpoint import checkpoints


def digest(run):
    """SHA-256 of all tensors of the newest checkpoint."""
    found = hashlib.sha256()
    for name, value in sorted(load_file(checkpoints(run / "checkpoints")[0]).items()):
        found.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        found.update(value.numpy().tobytes())
    return found.hexdigest()

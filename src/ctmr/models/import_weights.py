"""Networks of pytorch-CycleGAN-and-pix2pix become ours: the only module that reads a pickle.

A file is read by a process that does nothing else, with `weights_only`, and comes out of it as safetensors: what this
process parses is no pickle. The reference is github.com/junyanz/pytorch-CycleGAN-and-pix2pix, `models/networks.py`.
"""

import os
import pickle
import re
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from ctmr.cyclegan.networks import Discriminator, ResnetGenerator
from ctmr.cyclegan.state import load_strictly
from ctmr.errors import CheckpointError, printable
from ctmr.models.card import MAX_HEADER_BYTES
from ctmr.system.files import content_digest
from ctmr.system.parallel import serve, worker_context
from ctmr.types import DIRECTION_TO, OTHER, Direction, Modality

Network = TypeVar("Network", bound=nn.Module)
Weights = dict[str, Tensor]
Pair = tuple[Path, Path]

MAX_BYTES = 2**31  # of a file; 9 blocks of 64 filters, the reference's default, have 46 MB
BLOCKS, FILTERS = (1, 64), (4, 256)  # as in `config.NetworkConfig`
WHICH = "give latest_net_G_A.pth and latest_net_G_B.pth, and discriminators with --net-d"
OTHER_NETWORK = "import a network trained with --netG resnet_9blocks or resnet_6blocks"
OTHER_NORM = "import a network trained with --norm instance"
AGAIN = "copy the file again"

_PREFIXES = re.compile(r"^(?:module\.|_orig_mod\.)+")
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
# What the first byte of a child's answer says of the rest.
_WEIGHTS, _CODE, _DAMAGED = b"w", b"c", b"d"


@dataclass(frozen=True)
class Shape:
    """What decides the shapes of a generator's weights."""

    channels: Literal[1, 3]
    blocks: int
    filters: int

    def __str__(self) -> str:
        return f"{self.channels} channels, {self.blocks} blocks and {self.filters} filters"


@dataclass(frozen=True, eq=False)
class Imported:
    """The networks of four files.

    Attributes:
        shape: Of both generators.
        generators: By direction.
        discriminators: By the modality whose images they judge; empty where none were given.
        discriminator_filters: Of their first layer; None where none were given.
        sha256: Of the file that each network comes from, by what the network is for.
    """

    shape: Shape
    generators: dict[Direction, ResnetGenerator]
    discriminators: dict[Modality, Discriminator]
    discriminator_filters: int | None
    sha256: dict[str, str]


def import_weights(net_g: Pair, net_d: Pair | None, *, ct_is: Literal["A", "B"]) -> Imported:
    """The networks of weights that pytorch-CycleGAN-and-pix2pix saved.

    Args:
        net_g: Files of G_A, which maps A to B, and of G_B, which maps B to A.
        net_d: Files of D_A, which judges images of B there, and of D_B, which judges those of A.
        ct_is: The domain that holds CT.

    Raises:
        CheckpointError: If a file cannot be read, is no such network, or they do not belong together.
    """
    modality: Modality = "ct" if ct_is == "A" else "mr"  # of A
    into: tuple[Modality, Modality] = (OTHER[modality], modality)  # what G_A and G_B make
    generators = {DIRECTION_TO[to]: _generator(file) for to, file in zip(into, net_g, strict=True)}
    (one, first), (other, second) = generators.values()
    if one != other:
        raise CheckpointError(
            f"expected generators of one shape: found {other}, and {one} in {net_g[0].name}",
            file=net_g[1],
            fix="give the two files of one training",
        )
    judged = [] if net_d is None else list(zip(into, net_d, strict=True))
    discriminators = {of: _discriminator(file, one.channels) for of, file in judged}
    widths = {filters for filters, _ in discriminators.values()}
    if len(widths) > 1:
        raise CheckpointError(
            f"expected discriminators of one width: found {' and '.join(map(str, sorted(widths)))} filters",
            file=judged[1][1],
            fix="give the two files of one training",
        )
    files = {f"generator {DIRECTION_TO[to]}": file for to, file in zip(into, net_g, strict=True)}
    files |= {f"discriminator {of}": file for of, file in judged}
    return Imported(
        shape=one,
        generators={DIRECTION_TO[into[0]]: first, DIRECTION_TO[into[1]]: second},
        discriminators={of: network for of, (_, network) in discriminators.items()},
        discriminator_filters=min(widths, default=None),
        sha256={what: content_digest(file).hex() for what, file in files.items()},
    )


# Networks


def _generator(file: Path) -> tuple[Shape, ResnetGenerator]:
    """The generator in a file: a ResNet with instance norm, as many channels out as in."""
    weights = _read(file)
    if any(key.startswith("model.model.") for key in weights):
        raise CheckpointError("expected a ResNet, found a U-Net", file=file, fix=OTHER_NETWORK)
    if _is_discriminator(weights):
        raise CheckpointError("expected a generator, found a discriminator", file=file, fix=WHICH)
    _require_instance_norm(weights, "model.1", file)
    blocks = len({key.split(".")[1] for key in weights if ".conv_block." in key})
    last = 10 + blocks  # convolutions stand at 1, 4, 7, in the blocks from 10 on, and after them
    names = {f"model.{n}": f"body.{n}" for n in (1, 4, 7, last, last + 3, last + 7)}
    second = 6 if any(".conv_block.6." in key for key in weights) else 5  # after a dropout
    for n in range(10, last):
        names[f"model.{n}.conv_block.1"] = f"body.{n}.body.1"
        names[f"model.{n}.conv_block.{second}"] = f"body.{n}.body.5"
    renamed = _renamed(weights, names, [f"model.{last + 7}"], file)
    filters, channels = _first(weights, "model.1", file)
    out = len(weights[f"model.{last + 7}.weight"])
    if out != channels:
        raise CheckpointError(
            f"expected as many channels out as in: found {channels} in and {out} out",
            file=file,
            fix="train it with the same --input_nc and --output_nc, 1 or 3",
        )
    if channels not in (1, 3) or not _within(blocks, BLOCKS) or not _within(filters, FILTERS):
        raise CheckpointError(
            f"expected 1 or 3 channels, 1 to 64 blocks and 4 to 256 filters: found {channels},"
            f" {blocks} and {filters}",
            file=file,
            fix=OTHER_NETWORK,
        )
    shape = Shape(3 if channels == 3 else 1, blocks, filters)
    with torch.device("meta"):  # draws no random numbers
        network = ResnetGenerator(channels, filters, blocks, "deconvolution")
    return shape, _loaded(network, renamed, file)


def _discriminator(file: Path, channels: int) -> tuple[int, Discriminator]:
    """The 70x70 PatchGAN with instance norm in a file, and its filters."""
    weights = _read(file)
    if not _is_discriminator(weights):
        raise CheckpointError(
            "expected a discriminator, found another network", file=file, fix=WHICH
        )
    _require_instance_norm(weights, "model.2", file)
    names = {f"model.{n}": f"body.{n}" for n in (0, 2, 5, 8, 11)}
    renamed = _renamed(weights, names, ["model.0", "model.11"], file)
    filters, found = _first(weights, "model.0", file)
    if found != channels or not _within(filters, FILTERS):
        raise CheckpointError(
            f"expected a discriminator of {channels} channels and 4 to 256 filters: found {found}"
            f" and {filters}",
            file=file,
            fix="give the discriminators of the same training",
        )
    with torch.device("meta"):
        network = Discriminator(channels, filters)
    return filters, _loaded(network, renamed, file)


def _is_discriminator(weights: Weights) -> bool:
    """Whether the first layer is that of a discriminator: a generator begins with a padding."""
    return "model.0.weight" in weights or "net.0.weight" in weights


def _require_instance_norm(weights: Weights, first: str, file: Path) -> None:
    """Refuse norms with weights, and none: only before an instance norm have convolutions a bias."""
    if any(key.endswith(".weight") and tensor.ndim == 1 for key, tensor in weights.items()):
        what = "expected instance norm, found a norm with weights (batch norm)"
        raise CheckpointError(what, file=file, fix=OTHER_NORM)
    if f"{first}.weight" in weights and f"{first}.bias" not in weights:
        raise CheckpointError("expected instance norm, found no norm", file=file, fix=OTHER_NORM)


def _renamed(
    weights: Weights, names: Mapping[str, str], biased: list[str], file: Path
) -> dict[str, Tensor]:
    """The weights of convolutions by our names; of biases only those that no instance norm removes."""
    expected = {f"{name}.{kind}" for name in names for kind in ("weight", "bias")}
    if strange := sorted(expected ^ set(weights)):
        raise CheckpointError(
            "expected a ResNet generator or a 70x70 PatchGAN discriminator, found missing or unknown"
            f" weights: {printable(', '.join(strange[:3]))[:200]}",
            file=file,
            fix=OTHER_NETWORK,
        )
    kept = {f"{names[name]}.weight": weights[f"{name}.weight"] for name in names}
    kept |= {f"{names[name]}.bias": weights[f"{name}.bias"] for name in biased}
    return {key: tensor.float() for key, tensor in kept.items()}


def _first(weights: Weights, name: str, file: Path) -> tuple[int, int]:
    """Filters and channels of the first convolution."""
    shape = tuple(weights[f"{name}.weight"].shape)  # (filters, channels, kernel, kernel)
    if len(shape) != 4:
        what = f"expected the weights of a convolution in {name}, found {shape}"
        raise CheckpointError(what, file=file, fix=OTHER_NETWORK)
    return shape[0], shape[1]


def _within(value: int, ends: tuple[int, int]) -> bool:
    return ends[0] <= value <= ends[1]


def _loaded(network: Network, weights: Weights, file: Path) -> Network:
    """A network without memory of its own yet, with these weights."""
    network.to_empty(device="cpu")
    try:
        load_strictly(network, weights, file)
    except CheckpointError as error:
        raise CheckpointError(error.what, file=file, fix=OTHER_NETWORK) from error
    return network.eval().requires_grad_(False)


# Files


def _read(file: Path) -> Weights:
    """The tensors in a file by name, without what wrappers and old instance norms put there."""
    _require_small(file)
    answer = _ask_child(file)
    kind, content = answer[:1], answer[1:]
    if kind == _CODE:
        raise CheckpointError(
            f"expected weights alone, found code ({printable(content.decode())}), which was not run",
            file=file,
            fix="save the weights alone: torch.save(network.state_dict(), FILE)",
        )
    if kind != _WEIGHTS:
        why = printable(content.decode()) or "it is truncated, damaged or of another kind"
        raise CheckpointError(
            f"expected weights that torch.save wrote: {why}", file=file, fix=f"{AGAIN}; {WHICH}"
        )
    found = from_bytes(content)
    weights = {_PREFIXES.sub("", key): tensor for key, tensor in found.items()}
    if len(weights) < len(found):
        raise CheckpointError("expected each name once, found one twice", file=file, fix=AGAIN)
    statistics = [key for key in weights if key.rpartition(".")[2] in _STATISTICS]
    return {key: tensor for key, tensor in weights.items() if key not in statistics}


def _require_small(file: Path) -> None:
    """Refuse what is too large, or would be once it is unpacked, before anything reads it."""
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError("it is not a regular file", file=file, fix=WHICH)
        size = status.st_size
        with file.open("rb") as stream:
            if stream.read(2) == b"PK":  # what torch.save writes since PyTorch 1.6
                with zipfile.ZipFile(stream) as archive:
                    unpacked = sum(entry.file_size for entry in archive.infolist())
                size = max(size, unpacked)
    except OSError as error:
        what, fix = f"cannot read it ({error.strerror})", "check the path and its permissions"
        raise CheckpointError(what, file=file, fix=fix) from error
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        what = "expected weights that torch.save wrote: it is truncated or damaged"
        raise CheckpointError(what, file=file, fix=AGAIN) from error
    if size > MAX_BYTES or size > status.st_size:
        raise CheckpointError(
            f"expected at most {min(MAX_BYTES, status.st_size):,} bytes, found {size:,}",
            file=file,
            fix=WHICH,
        )


def _ask_child(file: Path) -> bytes:
    """What a process of its own found in a file; empty if it died of it.

    Bytes go through the pipe, not objects, which this process would unpickle.
    """
    context: Any = worker_context(__name__)
    receiving, sending = context.Pipe(duplex=False)
    with receiving:
        with sending:
            child = context.Process(target=_answer, args=(sending, file, os.getpid()), daemon=True)
            child.start()
        try:
            answer: bytes = receiving.recv_bytes(MAX_BYTES + MAX_HEADER_BYTES)
        except (EOFError, OSError):
            answer = b""
    child.join()
    return answer


def _answer(sending: Any, file: Path, parent: int) -> None:
    """All that the child does: send the weights in a file as safetensors, or why there are none."""
    serve(parent)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what libraries say of a foreign file
    try:
        answer = _WEIGHTS + _safetensors(torch.load(file, map_location="cpu", weights_only=True))
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        answer = _DAMAGED if code is None else _CODE + code[1][:100].encode()
    except TypeError as error:
        answer = _DAMAGED + str(error)[:200].encode()
    sending.send_bytes(answer)


def _safetensors(found: object) -> bytes:
    """Tensors by name as the bytes of a safetensors file."""
    if not isinstance(found, dict) or not all(isinstance(t, Tensor) for t in found.values()):
        raise TypeError(f"found a {type(found).__name__} that is no tensors by name")
    size = sum(tensor.numel() * tensor.element_size() for tensor in found.values())
    if size > MAX_BYTES:  # a tensor can be larger than what it is made of
        raise TypeError(f"found {size:,} bytes of tensors, at most {MAX_BYTES:,} are read")
    return to_bytes({str(key): tensor.detach().clone() for key, tensor in found.items()})

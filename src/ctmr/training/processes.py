"""The processes of a parallel run: what they exchange in a step, what they agree on, and who of them was lost."""

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from ctmr.cyclegan.state import TrainState, restore
from ctmr.errors import CtmrError, DistributedError, ToldElsewhere, UsageError
from ctmr.system.memory import is_want_of_memory
from ctmr.system.parallel import LAUNCHER, process_space, watch_for_death

WITHOUT_LIMIT = timedelta(days=3650)
COME_WITHIN = timedelta(minutes=10)
TOLD_WITHIN_S = 5.0  # in which the death of a process is told by those of its machine
LOOK_EVERY_S = 0.05
Result = TypeVar("Result")


class Machine(NamedTuple):
    """What a launcher says of this process."""

    rank: int
    world: int
    """Processes of the run."""
    local_rank: int
    local: int
    """Those of them on this machine."""

    @property
    def machines(self) -> int:
        """How many there are, with as many processes each."""
        return self.world // self.local


def launched() -> Machine | None:
    """What torch.distributed's elastic agent says of this process, if it started it."""
    if not dist.is_available() or not dist.is_torchelastic_launched():
        return None
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return Machine(*(int(os.environ[name]) for name in names))


def loopback_only(machine: Machine) -> None:
    """Let processes of one machine talk over its loopback device, for which no name is looked up."""
    if machine.local == machine.world:
        for _, name in socket.if_nameindex():
            if name.startswith("lo"):
                os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def _join(rank: int, count: int) -> PrefixStore:
    """Wait until all processes are there; the store through which they found each other.

    Raises:
        DistributedError: If one does not come.
    """
    # One launcher serves several attempts (`--max-restarts`), of which none may read what another left there.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    serves = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    try:
        store = TCPStore(address, port, is_master=serves, timeout=COME_WITHIN)
        joined = PrefixStore(f"ctmr/{attempt}", store)
        dist.init_process_group(
            "gloo", store=joined, rank=rank, world_size=count, timeout=COME_WITHIN
        )
    except RuntimeError as error:
        raise DistributedError(
            f"process {rank} of {count} did not find the others within"
            f" {COME_WITHIN.total_seconds() / 60:g} minutes at {address}:{port}",
            fix="check that all were started, and that this machine is reached from the others",
        ) from error
    return joined


def require_parts(images: int, processes: int) -> None:
    """Refuse steps whose images cannot be shared evenly.

    Raises:
        UsageError: With the nearest numbers that can.
    """
    if images % processes:
        below, above = images // processes * processes, -(-images // processes) * processes
        fits = f"{below} or {above}" if below else f"{above}"
        raise UsageError(
            f"train.batch_size is the images of a step, over {processes} processes together, and must be a"
            f" multiple of them: found {images}; {fits} would do",
            fix=f"--set train.batch_size={above}",
        )


class Processes:
    """The processes of a run, each with an equal part of every step; also one that is alone.

    What all must know goes through gloo on the host, whose waiting costs no time of the processor and ends at once when
    the connection to a process breaks.

    Args:
        machine: What the launcher says; None for a process that is alone.
        device: Where the networks are.

    Attributes:
        rank: Number of this process; 0 writes all there is to write.
        count: Of the processes.
    """

    def __init__(self, machine: Machine | None, device: torch.device) -> None:
        self._alone = machine is None
        self.rank, self.count, self._local_rank, _ = machine or Machine(0, 1, 0, 1)
        if self._alone:
            return
        self._hosts = ["an unknown machine"] * self.count
        self._store = _join(self.rank, self.count)
        # A process may be stopped, or at an evaluation, for hours.
        self._host = dist.new_group(backend="gloo", timeout=WITHOUT_LIMIT)
        gpus = device.type == "cuda"
        self._group = dist.new_group(backend="nccl", timeout=WITHOUT_LIMIT) if gpus else self._host
        self._hosts = [
            each["host"] for each in self._gathered_facts({"host": socket.gethostname()})
        ]
        self._watch_siblings()

    # In a step

    @property
    def part(self) -> tuple[int, int]:
        """Which of how many parts of a step this process has."""
        return self.rank, self.count

    def gathered(self, images: Tensor) -> Tensor:
        """The images `(B, C, H, W)` of all processes, in the order of the samples; without gradient."""
        if self._alone:
            return images
        images = images.detach().contiguous()
        found = [torch.empty_like(images) for _ in range(self.count)]
        with self._connected():
            dist.all_gather(found, images, group=self._group)
        return torch.cat(found)

    def own(self, images: Tensor) -> Tensor:
        """This process's part of the images of all."""
        return images.chunk(self.count)[self.rank]

    def average_gradients(self, weights: Sequence[nn.Parameter]) -> None:
        """Replace each gradient by its mean over the processes: that of the whole step."""
        if self._alone:
            return
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        with self._connected():
            dist.all_reduce(flat, group=self._group)
        flat /= self.count
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def means(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each value, detached: its mean over the processes."""
        if self._alone:
            return {name: value.detach() for name, value in values.items()}
        sums = torch.stack([value.detach().double() for value in values.values()])
        with self._connected():
            dist.all_reduce(sums, group=self._group)
        return dict(zip(values, (sums / self.count).unbind(), strict=True))

    # Between steps

    def greatest(self, *numbers: int, patient: bool = False) -> list[int]:
        """The greatest of each number over the processes; all wait for the last, without a limit of time.

        Args:
            numbers: At least 0.
            patient: Whether to answer signals while waiting, at the price of up to `LOOK_EVERY_S`.
        """
        if self._alone:
            return list(numbers)
        shared = torch.tensor(numbers, dtype=torch.int64)
        with self._connected():
            work = dist.all_reduce(shared, dist.ReduceOp.MAX, group=self._host, async_op=True)
            while patient and not work.is_completed():
                time.sleep(LOOK_EVERY_S)
            work.wait()
        return [int(number) for number in shared]

    def end_if(self, failed: CtmrError | None, *, patient: bool = False) -> None:
        """Raise the error of this process, or end silently with that of another.

        Raises:
            CtmrError: `failed`.
            ToldElsewhere: If another process has failed.
        """
        (code,) = self.greatest(failed.exit_code if failed else 0, patient=patient)
        if failed is not None:
            raise failed
        if code:
            raise ToldElsewhere(code)

    def first(self, work: Callable[[], Result]) -> Result | None:
        """Let process 0 do what only one may do, while the others wait; its error ends all. They get None."""
        return self._turn(self.rank == 0, work)

    def in_turn(self, work: Callable[[], Result]) -> Result:
        """Let one process of each machine do some work, then the others, who find what it left in the cache."""
        results = [
            self._turn(self._local_rank == 0, work),
            self._turn(self._local_rank != 0, work) if self.count > 1 else None,
        ]
        return next(result for result in results if result is not None)

    def _turn(self, mine: bool, work: Callable[[], Result]) -> Result | None:
        failed, result = None, None
        if mine:
            try:
                result = work()
            except CtmrError as error:
                failed = error
        self.end_if(failed, patient=True)
        return result

    def require_same(self, facts: Mapping[str, object]) -> None:
        """Refuse processes that would not do the same.

        Args:
            facts: What must not differ, by the name under which it is told.

        Raises:
            DistributedError: From process 0, naming what differs; the others end silently.
        """
        if self._alone:
            return
        whole = self._gathered_facts(facts)
        for rank, found in enumerate(whole):
            differ = [
                name for name in {**whole[0], **found} if whole[0].get(name) != found.get(name)
            ]
            if differ:
                listed = ", ".join(
                    f"{name} {whole[0].get(name)!r} and {found.get(name)!r}" for name in differ[:5]
                )
                error = DistributedError(
                    f"process 0 on {self._hosts[0]} and process {rank} on {self._hosts[rank]} differ:"
                    f" {listed}",
                    fix="start all processes with the same command, data and installation",
                )
                self.end_if(error if self.rank == 0 else None)

    def share(self, state: TrainState, path: Path) -> None:
        """Make the state of every process that of process 0.

        Args:
            state: At a step's end.
            path: For messages.
        """
        if self.count == 1:
            return
        tensors = state.tensors()
        if self.rank == 0:
            about = {
                "step": state.step,
                "history": [len(history.images) for history in state.histories().values()],
                "tensors": [
                    (name, str(each.dtype).removeprefix("torch."), list(each.shape))
                    for name, each in tensors.items()
                ],
            }
            self._store.set("state", json.dumps(about))
        with self._connected():
            about = json.loads(self._store.get("state"))
            received = {
                name: self._from_first(tensors.get(name), getattr(torch, kind), shape)
                for name, kind, shape in about["tensors"]
            }
        if self.rank > 0:
            restore(state, received, about["step"], about["history"], path)

    def _from_first(self, tensor: Tensor | None, kind: torch.dtype, shape: list[int]) -> Tensor:
        """A tensor of process 0, on the host."""
        if self.rank > 0 or tensor is None:
            tensor = torch.empty(shape, dtype=kind)
        tensor = tensor.detach().cpu().contiguous()
        dist.broadcast(tensor.reshape(-1).view(torch.uint8), 0, group=self._host)
        return tensor

    def _gathered_facts(self, facts: Mapping[str, object]) -> list[dict[str, Any]]:
        """What each process says, in their order."""
        self._store.set(f"facts/{self.rank}", json.dumps(facts, default=str))
        self.greatest(0)
        found = [json.loads(self._store.get(f"facts/{rank}")) for rank in range(self.count)]
        self.greatest(0)  # only then may the next facts be set
        return found

    # The end

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Tell the others with which code this process ends, so that they end likewise and are silent."""
        try:
            yield
        except BaseException as error:
            if not self._alone and not isinstance(error, ToldElsewhere | DistributedError):
                with suppress(RuntimeError):
                    self._store.set(f"ended/{self.rank}", str(_code_of(error)))
            raise
        finally:
            if not self._alone and dist.is_initialized():
                dist.destroy_process_group()

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """Find out who was lost if an exchange fails."""
        try:
            yield
        except RuntimeError as error:
            self._lost(error)

    def _lost(self, cause: RuntimeError) -> NoReturn:
        """End as the process that has ended, or say which one was killed.

        Raises:
            ToldElsewhere: If it, or the launcher, has said why.
            DistributedError: Naming process, machine and signal.
        """
        silent = LAUNCHER in os.environ
        deadline = time.monotonic() + (0.0 if silent else TOLD_WITHIN_S)
        others = [rank for rank in range(self.count) if rank != self.rank]
        while True:
            try:
                for rank in others:
                    if self._store.check([f"ended/{rank}"]):
                        raise ToldElsewhere(int(self._store.get(f"ended/{rank}"))) from cause
                    if self._store.check([f"killed/{rank}"]):
                        self._tell(rank, self._store.get(f"killed/{rank}").decode(), cause)
            except RuntimeError:  # the store ended with the launcher of the first machine
                self._tell(0, "", cause)
            if time.monotonic() >= deadline:
                break
            time.sleep(LOOK_EVERY_S)
        if silent:
            raise ToldElsewhere(DistributedError.exit_code) from cause
        self._tell(others[0] if len(others) == 1 else None, "", cause)

    def _tell(self, lost: int | None, how: str, cause: RuntimeError) -> NoReturn:
        """Say who was lost, once on each machine."""
        host = self._hosts[self.rank]
        if any(self._hosts[r] == host for r in range(self.rank) if r != lost):
            raise ToldElsewhere(DistributedError.exit_code) from cause
        which = (
            "another process"
            if lost is None
            else f"process {lost} of {self.count} on {self._hosts[lost]}"
        )
        raise DistributedError(
            f"{which} was lost: {how or 'killed by SIGKILL, or with its machine'}",
            fix="go on with --resume; --resume-or-start does so by itself",
        ) from cause

    def _watch_siblings(self) -> None:
        """Let the others know by which signal a process of this machine dies: no one else can see it."""
        facts = {"pid": os.getpid(), "space": process_space()}
        found = self._gathered_facts(facts)
        if LAUNCHER in os.environ:
            return  # which sees it itself
        watched = {
            each["pid"]: rank
            for rank, each in enumerate(found)
            if rank != self.rank and each["space"] == facts["space"]
        }

        def tell(pid: int, number: int) -> None:
            if number:
                with suppress(RuntimeError):
                    self._store.set(
                        f"killed/{watched[pid]}", f"killed by {signal.Signals(number).name}"
                    )

        watch_for_death(list(watched), tell)


def _code_of(error: BaseException) -> int:
    """The exit code that the command line gives to an error."""
    if isinstance(error, CtmrError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return 130
    return 7 if is_want_of_memory(error) else 1

"""Several processes of this program on this machine, started and watched by torch.distributed's elastic agent."""

import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from uuid import uuid4

from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.agent.server.api import RunResult, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous

from ctmr.errors import DistributedError, Stopped
from ctmr.system.parallel import LAUNCHER, cores

HERE = "127.0.0.1"  # no name is looked up, and nobody else can connect
START_S = 600
SHUTDOWN_S = 30
FORWARDED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")


def launch(arguments: Sequence[str], count: int) -> int:
    """Run this program `count` times with the same arguments, as the processes of one training; their exit code.

    Args:
        arguments: Of the command line.
        count: Processes: one for each GPU, or without a GPU for a share of the cores.

    Raises:
        DistributedError: If one was killed: which, and by which signal.
        Stopped: If a signal came before they were there.
    """
    os.environ[LAUNCHER] = str(os.getpid())
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // count)))
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    agent = _agent(["-m", "ctmr", *arguments], count)
    with _forwarding(agent) as sent, _without_lookups():
        result = agent.run()
    return _code(result, count, sent)


def _agent(arguments: Sequence[str], count: int) -> LocalElasticAgent:
    """The agent, which meets nobody else: its store listens on the loopback device alone."""
    listening = socket.socket()
    listening.bind((HERE, 0))
    listening.listen()
    port = listening.getsockname()[1]
    store = TCPStore(
        HERE, port, is_master=True, master_listen_fd=listening.detach(), wait_for_workers=False
    )
    meeting = StaticTCPRendezvous(HERE, port, 0, 1, uuid4().hex, START_S)
    meeting._store = store
    spec = WorkerSpec(
        role="ctmr",
        local_world_size=count,
        rdzv_handler=meeting,
        entrypoint=sys.executable,
        args=tuple(arguments),
        max_restarts=0,
        monitor_interval=0.1,
        master_addr=HERE,
        master_port=port,
        local_addr=HERE,
    )
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGQUIT"  # the others are passed on
    return LocalElasticAgent(spec, DefaultLogsSpecs(), shutdown_timeout=SHUTDOWN_S)


@contextmanager
def _forwarding(agent: LocalElasticAgent) -> Iterator[list[int]]:
    """Pass signals on to the processes, which agree when to stop; the signals that came."""
    sent: list[int] = []

    def forward(number: int, _: FrameType | None) -> None:
        workers = [worker.id for worker in agent.get_worker_group().workers]
        if not workers or workers[0] is None:
            raise Stopped(
                f"stopped before its first step by signal {number}",
                file="--devices",
                fix="run it again",
                signal_number=number,
            )
        sent.append(number)
        for process in workers:
            with suppress(ProcessLookupError):
                os.kill(int(process), number)

    numbers = [getattr(signal, name) for name in FORWARDED if hasattr(signal, name)]
    ignored = [n for n in numbers if signal.getsignal(n) == signal.SIG_IGN]  # under nohup
    before = {n: signal.signal(n, forward) for n in numbers if n not in ignored}
    try:
        yield sent
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _without_lookups() -> Iterator[None]:
    """Keep the agent from looking up the name of this machine, which it only writes into events that nobody reads."""
    lookup = socket.getfqdn
    socket.getfqdn = lambda name="": name
    try:
        yield
    finally:
        socket.getfqdn = lookup


def _code(result: RunResult, count: int, sent: Sequence[int]) -> int:
    """The exit code of the processes: that which one has given itself, before what became of the others.

    Raises:
        DistributedError: If one was killed.
    """
    failures = sorted(result.failures.items(), key=lambda item: item[1].timestamp)
    codes = [failure.exitcode for _, failure in failures]
    told = [code for code in codes if code > 0 and code != DistributedError.exit_code]
    if told:
        return told[0]
    for rank, failure in failures:
        if failure.exitcode < 0:
            if -failure.exitcode in sent:  # before it listened to signals
                return 128 - failure.exitcode
            raise DistributedError(
                f"process {rank} of {count} on {socket.gethostname()} was lost: killed by"
                f" {failure.signal_name()}",
                fix="go on with --resume; --resume-or-start does so by itself",
            )
    return max(codes, default=0)

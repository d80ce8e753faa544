"""The processes that share a run, and what one of them can ask of the others.

`ONE` is a process alone: with it every verb is the identity and costs nothing. Whatever is not said to differ must be
called by all ranks, in the same order.
"""

import ctypes
import itertools
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from elsa.errors import LOST_RANK, AgreedError, UserError, require
from elsa.log import LAUNCHER

T = TypeVar("T")
_FOREVER = timedelta(days=365)  # whoever started the ranks ends all when one is dead, so nobody waits in vain
_FIRST_PORT, _PORTS = 20_000, 20_000
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl


class Ranks:
    """`rank` of `size` processes, each with a `device` of its own.

    `store`: of torch.distributed, where one leaves what others wait for.
    """

    def __init__(self, rank: int = 0, size: int = 1, store: "dist.Store | None" = None, device: str = "cpu"):
        self.rank, self.size, self._store, self.device = rank, size, store, device
        self._asked = itertools.count()

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes records and speaks to the user."""
        return self.rank == 0

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def max_(self, tensor: torch.Tensor) -> torch.Tensor:
        """The largest over all ranks, entry by entry, in place."""
        if self.size > 1:
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return tensor

    def stacked(self, tensor: torch.Tensor) -> torch.Tensor:
        """[size, ...]: the tensors of all ranks, which have the same shape."""
        if self.size == 1:
            return tensor[None]
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.stack(parts)

    def copy_(self, tensor: torch.Tensor, source: int = 0) -> torch.Tensor:
        """What the rank `source` has, in place."""
        if self.size > 1:
            dist.broadcast(tensor, src=source)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether it is true on some rank."""
        return flag if self.size == 1 else bool(self.max_(torch.tensor(int(flag))))

    def gather(self, thing: T) -> list[T]:
        """What each rank has, in their order; any object that can be pickled. They wait at the store, as in `once`."""
        if self._store is None:
            return [thing]
        asked = next(self._asked)
        keys = [f"gather/{asked}/{rank}" for rank in range(self.size)]
        self._store.set(keys[self.rank], pickle.dumps(thing))  # type: ignore[arg-type] # as above
        self._store.wait(keys, _FOREVER)
        return [pickle.loads(self._store.get(key)) for key in keys]

    def once(self, look: Callable[[], T]) -> T:
        """`look()` of the first rank, or the `UserError` that it raised, on all.

        The others wait at the store and in no collective, so that it may take as long as it likes.
        """
        if self._store is None:
            return look()
        key = f"once/{next(self._asked)}"
        if self.first:
            self._store.set(key, pickle.dumps(_outcome(look)))  # type: ignore[arg-type] # takes bytes too
        self._store.wait([key], _FOREVER)
        answer: tuple[T | None, str | None] = pickle.loads(self._store.get(key))
        return _unpacked(answer)

    def first_then_all(self, look: Callable[[], T]) -> T:
        """`look()` on every rank, on the others after the first: what it keeps on disk they find."""
        kept: list[T] = []
        self.once(lambda: kept.append(look()))
        return kept[0] if self.first else look()

    def all_or_none(self, do: Callable[[], T]) -> T:
        """`do()`, which may fail on some ranks alone: then all raise the first one's `UserError`."""
        mine = _outcome(do)
        failed = [error for error in self.gather(mine[1]) if error is not None]
        return _unpacked((mine[0], failed[0] if failed else None))

    def part(self) -> None:
        """Say that nothing will be asked any more; the first waits until all have said so."""
        assert self._store is not None, "there are several"
        gone = [f"gone/{rank}" for rank in range(1, self.size)]
        if self.first:
            self._store.wait(gone, _FOREVER)
        else:
            self._store.set(gone[self.rank - 1], "")

    def share_of(self, count: int) -> range:
        """Which of `count` things are this rank's: every size-th."""
        return range(self.rank, count, self.size)


ONE = Ranks()


def _outcome(look: Callable[[], T]) -> tuple[T | None, str | None]:
    try:
        return look(), None
    except UserError as error:
        return None, str(error)


def _unpacked(outcome: tuple[T | None, str | None]) -> T:
    if outcome[1] is not None:
        raise AgreedError(outcome[1])
    return outcome[0]  # type: ignore[return-value]


def started_among() -> int:
    """How many processes torchrun, srun or `elsa.distributed.launch` has started this one among."""
    return int(os.environ["WORLD_SIZE"]) if "RANK" in os.environ else _tasks_of_srun()


def join(device: str) -> Ranks:
    """Meet the processes that this one was started among; `ONE` if it is alone.

    `device`: cpu, or cuda, of which this process then uses the one that is its own.
    """
    if started_among() == 1:
        return ONE
    variables = _variables()
    os.environ.update(variables)
    _die_with_parent()
    rank, size = int(variables["RANK"]), int(variables["WORLD_SIZE"])
    require(0 <= rank < size, "RANK", rank, f"from 0 to below WORLD_SIZE={size}")
    if device == "cuda":
        here, number = torch.cuda.device_count(), int(variables.get("LOCAL_RANK", "0"))
        require(number < here, "device", device, f"there are {here} GPUs for process {number + 1} of this machine")
        torch.cuda.set_device(number)
    store, _, _ = next(iter(dist.rendezvous("env://", rank, size)))
    backend = "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl"
    dist.init_process_group(
        backend, store=dist.PrefixStore("group", store), rank=rank, world_size=size, timeout=timedelta(days=1)
    )
    return Ranks(rank, size, dist.PrefixStore("elsa", store), device)


def _die_with_parent() -> None:
    """Have the kernel end this process with the one that launched it, where there is one and the kernel is Linux."""
    parent = os.environ.get(LAUNCHER)
    if parent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != int(parent):  # it died before
        sys.exit(LOST_RANK)


def leave(ranks: Ranks) -> None:
    """Part from the others when all are done: the first, who keeps the store, goes last."""
    if ranks.size > 1:
        dist.destroy_process_group()
        ranks.part()


def _variables() -> dict[str, str]:
    """What torchrun sets; made of Slurm's own where srun has started several tasks without it."""
    if "RANK" in os.environ:
        return {key: value for key, value in os.environ.items() if key in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    slurm = os.environ
    host, port = meeting_place(slurm["SLURM_STEP_NODELIST"])
    return {
        "RANK": slurm["SLURM_PROCID"], "LOCAL_RANK": slurm["SLURM_LOCALID"], "MASTER_ADDR": host,
        "WORLD_SIZE": slurm["SLURM_STEP_NUM_TASKS"], "MASTER_PORT": str(port),
    }  # fmt: skip


def _tasks_of_srun() -> int:
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))


def meeting_place(nodes: str) -> tuple[str, int]:
    """The first of a Slurm job's nodes, and a port that is the job's own. `nodes`: as Slurm writes them, node[1-4]."""
    listed = ["scontrol", "show", "hostnames", nodes]
    hosts = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()
    return hosts[0], _FIRST_PORT + int(os.environ["SLURM_JOB_ID"]) % _PORTS

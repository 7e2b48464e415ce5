"""Several processes on one job, started by torchrun or here: each computes its part of the work."""

import atexit
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed, multiprocessing
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from minibert.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")


class OfDocument(Protocol):
    """Anything that belongs to one document, given by its number: a window."""

    @property
    def document(self) -> int: ...


Part = TypeVar("Part", bound=OfDocument)


# The group of processes -------------------------------------------------------------------------


def join() -> bool:
    """Join the group if torchrun started this process. Returns True in the one process that writes
    and prints."""
    if distributed.is_torchelastic_launched() and not distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend)
        # The threads of the group must not outlive it.
        atexit.register(distributed.destroy_process_group)
    return rank() == 0


def rank() -> int:
    """The number of this process; 0 in a single process."""
    return distributed.get_rank() if in_group() else 0


def size() -> int:
    """The number of processes."""
    return distributed.get_world_size() if in_group() else 1


def in_group() -> bool:
    """Whether this process belongs to a group, of one process or several."""
    return distributed.is_initialized()


@contextmanager
def with_helpers(job: Callable[..., Any], arguments: tuple, processes: int) -> Iterator[None]:
    """Start `processes` - 1 more processes, which call `job(*arguments)`. The `with` block does the
    same job as process 0. The threads of this process are divided among all of them.

    Raises InputError if one of the others ends before its time.
    """
    if processes == 1:
        yield
        return

    threads = torch.get_num_threads()
    store = distributed.TCPStore("localhost", 0, processes, is_master=True, wait_for_workers=False)
    shared = (job, arguments, store.port, processes, threads // processes)
    helpers = multiprocessing.start_processes(
        _run_helper, shared, processes - 1, join=False, daemon=True, start_method="spawn"
    )

    torch.set_num_threads(threads // processes)
    try:
        # Not one long wait, which neither Ctrl-C nor the end of a helper would interrupt.
        while not store.check([_ready(rank) for rank in range(1, processes)]):
            helpers.join(timeout=0.2)
        _join_store(store, 0, processes)

        yield
        while not helpers.join():  # True when all have ended
            pass
    except (RuntimeError, ProcessExitedException, ProcessRaisedException) as error:
        # gloo raises a RuntimeError where another process of the group is gone.
        failure = _failure(helpers) if isinstance(error, RuntimeError) else error
        if failure is None:
            raise
        reason = str(failure).strip().splitlines()[-1]
        raise InputError(
            f"one of {processes} processes has ended ({reason}); if memory is short, set "
            "OMP_NUM_THREADS=1, which leaves one, and run the same command again"
        ) from None
    finally:
        for helper in helpers.processes:
            helper.terminate()
            helper.join(timeout=1)
        if in_group():
            distributed.destroy_process_group()
        torch.set_num_threads(threads)


def _failure(helpers: multiprocessing.ProcessContext) -> Exception | None:
    """What has ended a helper; None if none has ended before its time."""
    try:
        helpers.join(timeout=5)
    except (ProcessExitedException, ProcessRaisedException) as failure:
        return failure
    return None


def _run_helper(
    number: int, job: Callable[..., Any], arguments: tuple, port: int, processes: int, threads: int
) -> None:
    torch.set_num_threads(threads)
    store = distributed.TCPStore("localhost", port, processes, is_master=False)
    store.set(_ready(number + 1), "")
    _join_store(store, number + 1, processes)
    job(*arguments)
    distributed.destroy_process_group()


def _ready(rank: int) -> str:
    """The key that a process sets when it runs."""
    return f"process {rank} runs"


def _join_store(store: distributed.Store, rank: int, processes: int) -> None:
    # One process may wait long for another: a collection with one very long document.
    distributed.init_process_group(
        "gloo", store=store, rank=rank, world_size=processes, timeout=timedelta(days=1)
    )


# Sharing the work -------------------------------------------------------------------------------


def local_windows(windows: Sequence[Part]) -> list[Part]:
    """The windows of this process's documents; all windows in a single process."""
    return [window for window in windows if window.document % size() == rank()]


def local_items(items: Sequence[Item]) -> list[tuple[int, Item]]:
    """(index, item) of this process's items: every size()-th one."""
    return list(enumerate(items))[rank() :: size()]


def map_in_order(compute: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """compute(item) for each item, in order, in every process. Each process computes every
    size()-th item, so `compute` must not share work itself. Items are read as they are needed."""
    items = iter(items)

    # One round: an item for each process; in the last round there may be too few.
    while group := list(islice(items, size())):
        results: list[Any] = [None] * size()
        if rank() < len(group):
            results[rank()] = compute(group[rank()])

        if size() > 1:
            distributed.all_gather_object(results, results[rank()])
        yield from results[: len(group)]


# Sharing the results ----------------------------------------------------------------------------


def broadcast(value: Any) -> Any:
    """The first process's value, in every process."""
    if size() == 1:
        return value

    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def all_reduce_sum(array: np.ndarray) -> np.ndarray:
    """Sum an array over all processes, in place. Each process has filled its documents' part."""
    if size() > 1:
        distributed.all_reduce(torch.from_numpy(array))
    return array


def all_reduce_gradients(parameters: Iterable[Tensor]) -> None:
    """Sum each gradient over all processes, in place. A missing gradient counts as zero."""
    if size() == 1:
        return

    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        distributed.all_reduce(parameter.grad)

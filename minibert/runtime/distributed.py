"""Several processes on one job, started by torchrun: each computes its part of the work."""

import atexit
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed

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
    return distributed.get_rank() if distributed.is_initialized() else 0


def size() -> int:
    """The number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


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


def reduce_float(value: float) -> float:
    """The sum of a number over all processes."""
    return float(all_reduce_sum(np.array([value]))[0])


def all_reduce_gradients(parameters: Iterable[Tensor]) -> None:
    """Sum each gradient over all processes, in place. A missing gradient counts as zero."""
    if size() == 1:
        return

    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        distributed.all_reduce(parameter.grad)

"""Several processes on one job, under torchrun: each takes its share of the work."""

import atexit
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed

Item = TypeVar("Item")


Result = TypeVar("Result")


class OfDocument(Protocol):
    """Anything that belongs to one document, by its number: a window."""

    document: int


Part = TypeVar("Part", bound=OfDocument)


_apart = False


def join() -> bool:
    """Join the group if torchrun started this process; True in the one process that writes."""
    if distributed.is_torchelastic_launched() and not distributed.is_initialized():
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        )
        atexit.register(distributed.destroy_process_group)  # its threads must not outlive it
    return rank() == 0


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() and not _apart else 0


def size() -> int:
    return distributed.get_world_size() if distributed.is_initialized() and not _apart else 1


@contextmanager
def working_alone() -> Iterator[None]:
    """Inside, this process works alone, on items that are its own."""
    global _apart
    _apart = True
    try:
        yield
    finally:
        _apart = False


def map_in_order(compute: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """compute(item) of every item, in order, in every process; the items are dealt out in turns
    and read as they are asked for."""
    items = iter(items)
    while group := list(islice(items, size())):
        own, result = rank(), None
        if own < len(group):
            with working_alone():
                result = compute(group[own])
        results = [result] * size()
        if size() > 1:
            distributed.all_gather_object(results, result)
        yield from results[: len(group)]


def local_windows(windows: Sequence[Part]) -> list[Part]:
    """The windows of this process's documents: every one where there is one process."""
    return [window for window in windows if window.document % size() == rank()]


def local_items(items: Sequence[Item]) -> list[tuple[int, Item]]:
    """(number, item) of the items that fall to this process when they are dealt out in turns."""
    return list(enumerate(items))[rank() :: size()]


def broadcast(value: Any) -> Any:
    """The first process's value, in every process."""
    if size() == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def all_reduce_sum(array: np.ndarray) -> np.ndarray:
    """Sum an array over all processes, in place; each has filled in its own documents' part."""
    if size() > 1:
        distributed.all_reduce(torch.from_numpy(array))
    return array


def reduce_float(value: float) -> float:
    """The sum of a number over all processes."""
    return float(all_reduce_sum(np.array([value]))[0])


def all_reduce_gradients(parameters: Iterable[Tensor]) -> None:
    """Sum every gradient over all processes, in place; none counts as zero."""
    for parameter in parameters if size() > 1 else ():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        distributed.all_reduce(parameter.grad)

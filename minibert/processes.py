"""Several processes on one job, under torchrun: each takes its share of the documents."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import distributed

from minibert.data import Window


def join() -> bool:
    """Join the group if torchrun started this process; True in the one process that writes."""
    if distributed.is_torchelastic_launched() and not distributed.is_initialized():
        distributed.init_process_group("gloo")
    return not distributed.is_initialized() or distributed.get_rank() == 0


def share(windows: Sequence[Window]) -> list[Window]:
    """The windows of this process's documents: every one where there is one process."""
    if not distributed.is_initialized():
        return list(windows)
    rank, size = distributed.get_rank(), distributed.get_world_size()
    return [window for window in windows if window.document % size == rank]


def agree(value: Any) -> Any:
    """The first process's value, in every process."""
    if not distributed.is_initialized():
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def add_up(array: np.ndarray) -> np.ndarray:
    """Sum an array over all processes, in place; each has filled in its own documents' part."""
    if distributed.is_initialized():
        distributed.all_reduce(torch.from_numpy(array))
    return array

"""The most memory that tensors take at once."""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

# Private modules of torch, checked with 2.13.
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

BLOCK = 512  # bytes; CUDA's allocator gives multiples of it
MIB = 2**20


class PeakMeter(TorchDispatchMode):
    """A context that measures `peak`, the most bytes of tensors that exist at once.

    Counted are `tensors`, made before, and every tensor made inside, in blocks of BLOCK. Views of
    the same memory count once. Temporary memory inside a kernel is not seen.
    """

    def __init__(self, tensors: Iterable[Tensor] = ()):
        super().__init__()
        self.now = self.peak = 0
        self._known = WeakIdKeyDictionary()
        for tensor in tensors:
            self._count(tensor)

    def __torch_dispatch__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        output = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor) and not leaf.is_meta:
                self._count(leaf)
        return output

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage not in self._known:
            size = -(-storage.nbytes() // BLOCK) * BLOCK
            self._known[storage] = size
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.now -= size

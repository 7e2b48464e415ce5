"""How much memory tensors take at most: counted while a computation runs, or while it only seems
to run, on fake tensors that have shapes and no values."""

import weakref
from collections.abc import Iterable

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

BLOCK = 512  # bytes; CUDA's allocator gives multiples of it


class PeakMeter(TorchDispatchMode):
    """A context in which `peak` is the most bytes that were alive at once: those of `tensors`, made
    before, and of every tensor made inside. Views count once, and temporary memory inside a kernel
    is not seen."""

    def __init__(self, tensors: Iterable[Tensor] = ()):
        super().__init__()
        self.now = self.peak = 0
        self._alive = WeakIdKeyDictionary()
        for tensor in tensors:
            self._count(tensor)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and not leaf.is_meta:
                self._count(leaf)
        return out

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage not in self._alive:
            size = -(-storage.nbytes() // BLOCK) * BLOCK
            self._alive[storage] = size
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.now -= size

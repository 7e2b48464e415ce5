"""The device and the precision to compute in."""

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal

import torch

from minibert.errors import InputError
from minibert.runtime.folder import recorded_precision

Precision = Literal["auto", "float32", "bf16", "fp16"]
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str) -> torch.device:
    """The device that `name` names; "auto" is a GPU if there is one, under torchrun each process
    its own. Raises InputError for a device that does not work."""
    try:
        if name == "auto":
            gpu = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
            name = gpu if torch.cuda.is_available() else "cpu"
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # raises for a device that is missing or in use
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return device


def choose_precision(
    name: Precision, device: torch.device, folder: str | Path | None = None
) -> Precision:
    """The precision that "auto" stands for: what the run in `folder` recorded. For a new run bf16
    (else fp16) on a GPU, and float32 on a CPU, whatever the processor supports."""
    if name != "auto":
        return name
    if folder and (recorded := recorded_precision(folder)):
        return recorded
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "float32"


def autocast(name: Precision, device: torch.device) -> AbstractContextManager:
    """The context for passes in this precision: mixed precision in bf16 and fp16."""
    return nullcontext() if name == "float32" else torch.autocast(device.type, DTYPES[name])


def slow_precision(name: Precision, device: torch.device) -> str | None:
    """A warning if this CPU has no instructions for the precision, else None."""
    if device.type != "cpu" or name not in ("bf16", "fp16"):
        return None
    is_supported = getattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported", None)  # private
    warning = f"this CPU has no {name}: a run with --precision float32 is faster"
    return None if is_supported and is_supported() else warning

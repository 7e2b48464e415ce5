"""train.py as a process of its own, which can be killed and whose GPU memory can be capped.

python train_process.py SAVES CAP ARGUMENTS: SIGKILL in place of the save of that number (0: never);
CAP MiB that the GPU's allocator may give (0: no limit). Losses are read, and a checkpoint is saved,
after every fourth step. The last line that is printed is the peak of the GPU's tensors, in MiB.
"""

import os
import signal
import sys
from functools import partial

import torch

import train
from minibert.training import loop

saves, cap, *arguments = sys.argv[1:]
torch.set_num_threads(1)

# The same kernels in each process. What has no deterministic kernel runs all the same.
torch.use_deterministic_algorithms(True, warn_only=True)
loop.READ_EVERY |= {"cpu": 4, "cuda": 4}
train.fit = partial(train.fit, save_every=0.0)
save = loop.TrainingRun._save
steps = []


def save_or_die(run: loop.TrainingRun) -> None:
    steps.append(run.step)
    if len(steps) == int(saves):
        os.kill(os.getpid(), signal.SIGKILL)
    save(run)


loop.TrainingRun._save = save_or_die
if torch.cuda.is_available() and int(cap):
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(int(cap) * 2**20 / total)

code = train.main(arguments)
print(torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0)
sys.exit(code)

"""A script in a forked process that meets one fault, at a given step of its work on the disk.

`attempt` runs in a child of multiprocessing's forkserver, which has imported this module: so that a
kill does not cost a start of Python and PyTorch.
"""

import errno
import io
import os
import resource
import signal
import sys
from contextlib import redirect_stdout, suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import torch
import torch._dynamo  # the first optimizer would import it
from matplotlib.figure import Figure

import ablate
import prune
import rank
import train
from minibert.evaluation import intervals

torch.set_num_threads(1)  # a process with threads must not fork
os.environ["TOKENIZERS_PARALLELISM"] = "false"

SCRIPTS = {"train": train, "ablate": ablate, "prune": prune, "rank": rank}
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir")  # audit events, beside some of "open"


def warm_up() -> None:
    """What would be imported, or searched for, in every process anew."""
    intervals.resamples(2, 1)
    for script in SCRIPTS.values():
        with suppress(SystemExit), redirect_stdout(io.StringIO()):
            script.main(["--help"])


warm_up()


class Fault(NamedTuple):
    """What happens, and before which change in the folder (1: the first; 0: before none)."""

    kind: str = "none"
    change: int = 0
    size: int = 0  # of "torn" and "full": the bytes that still go into a file


def attempt(
    command: list[str],
    folder: Path,
    fault: Fault,
    line: Connection,
    stdout: Connection,
    stderr: Connection,
) -> None:
    """Run the script and end with its exit code; send how many changes it made in the folder."""
    os.dup2(stdout.fileno(), 1)
    os.dup2(stderr.fileno(), 2)
    sys.stdout = os.fdopen(1, "w")  # the old one remembers whether its file could seek
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    train.fit = partial(train.fit, save_every=0.0)  # a state after every step
    resamples = intervals.resamples  # of these, and of figures, less is as good here
    intervals.resamples = lambda documents, count=0: resamples(documents, 10)
    Figure.savefig = lambda figure, path, **_: path.write_text("drawn")
    watch = Watch(folder, fault, line)
    sys.addaudithook(watch)
    script, *arguments = command
    code = SCRIPTS[script].main(arguments)
    line.send(watch.changes)
    sys.exit(code)


class Watch:
    """Counts what is about to change in a folder, and strikes. Libraries in Rust open and write
    files unseen; the empty file that is made before, and the rename after, are seen."""

    def __init__(self, folder: Path, fault: Fault, line: Connection):
        self.folder = str(folder)
        self.fault = fault
        self.line = line
        self.changes = 0

    def __call__(self, event: str, arguments: tuple) -> None:
        if event not in CHANGES and not (event == "open" and arguments[2] & os.O_ACCMODE):
            return
        path = str(arguments[0])
        if path.startswith(self.folder) or not os.path.isabs(path):  # shutil.rmtree's are relative
            self.changes += 1
            lasting = self.fault.kind == "refused" and self.changes > self.fault.change
            if self.changes == self.fault.change or lasting:
                self.strike(path)

    def strike(self, path: str) -> None:
        kind = self.fault.kind
        if kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind == "stopped":
            os.kill(os.getpid(), signal.SIGINT)
        elif kind == "refused":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        elif kind == "held":
            self.line.send("held")
            self.line.recv()
        else:
            if kind == "torn":  # the write that goes beyond the size kills the process
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.fault.size, resource.RLIM_INFINITY))

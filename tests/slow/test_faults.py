"""Kills, full disks and the like at random moments: nothing half written, and the same result.

`make soak` kills many more times.
"""

import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import faults
import pytest
from faults import Fault
from safetensors import safe_open

from minibert.data.corpus import SAMPLE, read_documents

ROOT = Path(__file__).parent
NAMES = ["train", "ablate", "prune", "extract", "fit", "evaluate"]
MEASURED = ("tokens_per_s", "costs")  # in JSON: times and memory
CHANGING = ("table.txt", "pareto.png", "report.html")  # which show them
ENDS = {"killed": -signal.SIGKILL, "torn": -signal.SIGXFSZ, "stopped": 130, "refused": 2, "full": 2}
CERTAIN = ("killed", "stopped")  # the others strike only what is written after


@pytest.fixture(scope="module")
def server():
    """Forks processes that have imported everything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONUNBUFFERED", raising=False)  # as most users have it
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT, ROOT.parents[1]))))
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["faults"])
        yield context


@dataclass
class Job:
    """A command whose output goes into a folder of its own."""

    server: multiprocessing.context.BaseContext
    command: list[str]
    folder: Path

    def start(self, fault=Fault(), stdout=None):  # noqa: B008
        """The process, our end of its line, and its standard error."""
        line, its_line = self.server.Pipe()
        stderr, its_stderr = self.server.Pipe(duplex=False)
        stdout = stdout or Connection(os.open(os.devnull, os.O_WRONLY), readable=False)
        arguments = (self.command, self.folder, fault, its_line, stdout, its_stderr)
        process = self.server.Process(target=faults.attempt, args=arguments, daemon=True)
        process.start()
        for theirs in (its_line, its_stderr):
            theirs.close()
        return process, line, stderr

    def run(self, fault=Fault(), stdout=None) -> tuple[int, str, int]:  # noqa: B008
        """Exit code (below 0: killed by that signal), standard error, changes on the disk."""
        process, line, stderr = self.start(fault, stdout)
        return self.end(process, line, stderr)

    def end(self, process, line: Connection, stderr: Connection) -> tuple[int, str, int]:
        with open(stderr.fileno(), closefd=False, encoding="utf-8") as stream:
            said = stream.read()
        process.join()
        try:
            changes = line.recv()
        except EOFError:  # it died
            changes = 0
        return process.exitcode, said, changes

    def clear(self) -> None:
        shutil.rmtree(self.folder)
        self.folder.mkdir()

    def files(self) -> set[Path]:
        """Those that are there to be read: a hidden one is nobody's business."""
        paths = (p.relative_to(self.folder) for p in self.folder.rglob("*"))
        return {p for p in paths if not any(part.startswith(".") for part in p.parts)}

    def result(self) -> dict[str, object]:
        """What is in every file, less what is measured. Fails where a file is not whole."""
        return {str(p): content(self.folder / p) for p in sorted(self.files())}

    def left_over(self) -> list[Path]:
        return [p for p in self.folder.rglob(".*") if p.name != ".lock"]


def content(path: Path) -> object:
    if path.is_dir() or path.name in CHANGING:
        return None
    if path.suffix == ".safetensors":
        with safe_open(path, "np") as file:
            return {name: digest(file.get_tensor(name).tobytes()) for name in file.keys()}  # noqa: SIM118
    if path.suffix == ".json":
        return unmeasured(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".jsonl":
        whole = (x for x in path.read_text(encoding="utf-8").splitlines(True) if x.endswith("\n"))
        return [unmeasured(json.loads(line)) for line in whole]
    return digest(path.read_bytes())


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def unmeasured(value: object) -> object:
    if isinstance(value, dict):
        return {key: each for key, each in value.items() if key not in MEASURED}
    return value


class Whole(NamedTuple):
    """A job, what comes of it undisturbed, and in how many changes on the disk."""

    job: Job
    result: dict[str, object]
    changes: int


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, server, encoder_folder) -> Path:
    """A data folder of short texts, and a run of train.py on it."""
    folder = tmp_path_factory.mktemp("inputs")
    for split in ("train", "dev", "test"):
        few = read_documents(SAMPLE / f"{split}.jsonl")[:3]
        short = [{"id": d.id, "text": d.text[:150], "keyphrases": d.keyphrases} for d in few]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(x) + "\n" for x in short))
    code, said, _ = Job(server, commands(folder, encoder_folder, folder)["train"], folder).run()
    assert code == 0, said
    return folder


def commands(inputs: Path, encoder: Path, out: Path) -> dict[str, list[str]]:
    """The smallest of each script that still has every kind of file and goes on from something."""
    texts, model = str(inputs / "dev.jsonl"), ["--model", str(encoder)]
    run = ["--run", str(inputs / "run"), "--out", str(out / "run"), "--device", "cpu"]
    return {
        "train": [
            *("train", "--data", str(inputs), *model, "--out", str(out / "run")),
            *("--epochs", "3", "--batch-size", "2", "--learning-rate", "0.01", "--device", "cpu"),
        ],
        "ablate": ["ablate", *run, "--orders", "gradient", "--random", "1", "--points", "2"],
        "prune": ["prune", *run, "--keep", "4", "2", "--steps", "2", "--recover", "1", "--export"],
        "extract": [
            *("rank", "extract", texts, *model),
            *("--out", str(out / "phrases.jsonl"), "--html", str(out / "page.html")),
        ],
        "fit": ["rank", "fit", texts, *model, "--most", "1", "--out", str(out / "heads.json")],
        "evaluate": ["rank", "evaluate", texts, *model, "--out", str(out / "scores.json")],
    }


@pytest.fixture(scope="module", params=NAMES)
def whole(request, server, inputs, encoder_folder, tmp_path_factory) -> Whole:
    folder = tmp_path_factory.mktemp(request.param)
    job = Job(server, commands(inputs, encoder_folder, folder)[request.param], folder)
    code, said, changes = job.run()
    assert code == 0, said
    return Whole(job, job.result(), changes)


@pytest.fixture
def job(whole) -> Job:
    """To be begun anew."""
    whole.job.clear()
    return whole.job


def strike(whole: Whole, kinds: list[str], count: int) -> None:
    """Run the job with fault upon fault until `count` have struck. The nearer it comes to its end,
    the sooner the next one strikes, down to its first change; then it runs through, and so on."""
    job = whole.job
    draw = random.Random(" ".join([*job.command[:2], *kinds]))
    while count > 0:
        job.clear()
        left = whole.changes
        while left > 0 and count > 0:
            change = draw.randint(1, left)
            fault = Fault(draw.choice(kinds), change, int(2 ** draw.uniform(0, 17)))
            if struck(job, fault):
                left -= change
                count -= 1
            else:
                left = 0
        assert_ends(whole)


def assert_ends(whole: Whole) -> None:
    """The same command goes on and ends as if nothing had happened."""
    code, said, _ = whole.job.run()
    assert code == 0, said
    assert whole.job.result() == whole.result
    assert not whole.job.left_over()


def struck(job: Job, fault: Fault) -> bool:
    """Whether the fault ended the run: as it should, and with every file whole."""
    before = job.files()
    code, said, _ = job.run(fault)
    if fault.kind in CERTAIN or code:
        assert code == ENDS[fault.kind], f"{fault}: {said}"
    job.result()
    lost = {path.name for path in before - job.files()}
    assert lost <= {"checkpoint.safetensors"}, fault  # which a finished run does without
    *_, last = said.splitlines() or [""]
    assert "Traceback" not in said, said
    if code == 2:
        assert last.startswith(f"error: {job.folder}"), said
        assert any(why in last for why in ("Read-only", "File too large")), said
    if code == 130:
        assert last.startswith("stopped"), said
    return code != 0


@pytest.fixture
def kills(request) -> int:
    return request.config.getoption("--kills")


def test_killed_again_and_again_it_comes_to_the_same_result(whole, kills):
    """By SIGKILL before a change on the disk, or in the middle of a write."""
    strike(whole, ["killed", "torn"], kills)


def test_a_full_or_read_only_disk_or_ctrl_c_loses_nothing(whole, kills):
    """One sentence that names the file, every file whole, and the same command goes on."""
    strike(whole, ["full", "refused", "stopped"], kills // 2)


def test_a_second_process_is_refused_and_the_first_unharmed(job, whole):
    process, *pipes = job.start(Fault("held", whole.changes - 3))
    line, _ = pipes
    assert line.recv() == "held"
    code, said, _ = job.run()
    assert code == 2
    assert "another process is w" in said.splitlines()[-1]
    line.send("go on")
    code, said, _ = job.end(process, *pipes)
    assert code == 0, said
    assert job.result() == whole.result
    assert not job.left_over()


@pytest.fixture(params=["train", "rank"])
def printing(request, server, inputs, encoder_folder, tmp_path) -> Job:
    """A job that prints its result, or a table of it."""
    all_commands = commands(inputs, encoder_folder, tmp_path)
    command = all_commands["train"] if request.param == "train" else all_commands["extract"][:-4]
    return Job(server, command, tmp_path)


def test_nobody_reads_the_output(printing):
    reader, closed = printing.server.Pipe(duplex=False)
    reader.close()
    assert printing.run(stdout=closed)[:2] == (1, "")
    assert printing.run()[0] == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has it")
def test_the_output_goes_to_a_full_disk(printing):
    full = Connection(os.open("/dev/full", os.O_WRONLY), readable=False)
    code, said, _ = printing.run(stdout=full)
    assert (code, said.splitlines()[-1]) == (2, "error: No space left on device")
    assert printing.run()[0] == 0


def test_a_device_is_not_replaced(server, inputs, encoder_folder, tmp_path):
    """`--out /dev/null` by root would leave a plain file there."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    command = commands(inputs, encoder_folder, tmp_path)["extract"][:-4]
    code, said, _ = Job(server, [*command, "--out", str(pipe)], tmp_path).run()
    assert (code, said.splitlines()[-1]) == (2, f"error: {pipe}: cannot be written (not a file)")
    assert pipe.is_fifo()

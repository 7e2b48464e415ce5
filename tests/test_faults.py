"""Kills, full disks and the like at random moments: nothing half written, and the same result.

`make soak` kills many more times.
"""

import json
import multiprocessing
import os
import random
import shutil
import signal
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import faults
import pytest
from faults import Fault
from safetensors import safe_open

from minibert.data import SAMPLE, read_documents

ROOT = Path(__file__).parent
NAMES = ["train", "ablate", "prune", "extract", "fit", "evaluate"]
MEASURED = ("tokens_per_s", "costs")  # in JSON: times and memory
CHANGING = ("table.txt", "pareto.png")  # which show them
ENDS = {"killed": -signal.SIGKILL, "torn": -signal.SIGXFSZ, "stopped": 130, "refused": 2, "full": 2}
CERTAIN = ("killed", "stopped")  # the others strike only what is written after


@pytest.fixture(scope="module")
def server():
    """Forks processes that have imported everything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT, ROOT.parent))))
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
        streams = (stdout or its_stderr, its_stderr)
        arguments = (self.command, self.folder, fault, its_line, *streams)
        process = self.server.Process(target=faults.attempt, args=arguments)
        process.start()
        for theirs in (its_line, its_stderr):
            theirs.close()
        return process, line, stderr

    def run(self, fault=Fault(), stdout=None) -> tuple[int, str, int]:  # noqa: B008
        """Exit code (below 0: killed by that signal), what was printed, changes on the disk."""
        process, line, stderr = self.start(fault, stdout)
        return self.end(process, line, stderr)

    def end(self, process, line: Connection, stderr: Connection) -> tuple[int, str, int]:
        with open(stderr.fileno(), closefd=False, encoding="utf-8") as stream:
            said = stream.read()
        process.join()
        return process.exitcode, said, line.recv() if process.exitcode >= 0 else 0

    def files(self) -> set[Path]:
        """Those that are there to be read: a hidden one is nobody's business."""
        every = (p.relative_to(self.folder) for p in self.folder.rglob("*"))
        return {p for p in every if not any(part.startswith(".") for part in p.parts)}

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
            return {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118
    if path.suffix == ".json":
        return unmeasured(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".jsonl":
        whole = (x for x in path.read_text(encoding="utf-8").splitlines(True) if x.endswith("\n"))
        return [unmeasured(json.loads(line)) for line in whole]
    return path.read_bytes()


def unmeasured(value: object) -> object:
    if isinstance(value, dict):
        return {key: each for key, each in value.items() if key not in MEASURED}
    return value


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
            *("--epochs", "2", "--batch-size", "3", "--learning-rate", "0.01", "--device", "cpu"),
        ],
        "ablate": ["ablate", *run, "--orders", "gradient", "--random", "1", "--stride", "3"],
        "prune": ["prune", *run, "--keep", "4", "2", "--steps", "2", "--recover", "1", "--export"],
        "extract": [
            *("rank", "extract", texts, *model),
            *("--out", str(out / "phrases.jsonl"), "--html", str(out / "page.html")),
        ],
        "fit": ["rank", "fit", texts, *model, "--most", "1", "--out", str(out / "heads.json")],
        "evaluate": ["rank", "evaluate", texts, *model, "--out", str(out / "scores.json")],
    }


@pytest.fixture(params=NAMES)
def job(request, server, inputs, encoder_folder, tmp_path) -> Job:
    folder = tmp_path / "out"
    folder.mkdir()
    return Job(server, commands(inputs, encoder_folder, folder)[request.param], folder)


def strike(job: Job, kinds: list[str], count: int) -> None:
    """Run the job with fault upon fault until `count` have struck. The nearer it comes to its end,
    the sooner the next one strikes, down to its first change; then it runs through, and so on."""
    code, said, changes = job.run()
    assert code == 0, said
    expected = job.result()
    draw = random.Random(" ".join([*job.command[:2], *kinds]))
    while count > 0:
        shutil.rmtree(job.folder)
        job.folder.mkdir()
        left = changes
        while left > 0 and count > 0:
            at = draw.randint(1, left)
            fault = Fault(draw.choice(kinds), at, int(2 ** draw.uniform(0, 17)))
            left = left - at if struck(job, fault) else 0
            count -= 1
        code, said, _ = job.run()
        assert code == 0, said
        assert job.result() == expected
        assert not job.left_over()


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


def test_killed_again_and_again_it_comes_to_the_same_result(job, kills):
    """By SIGKILL before a change on the disk, or in the middle of a write."""
    strike(job, ["killed", "torn"], kills)


def test_a_full_or_read_only_disk_or_ctrl_c_loses_nothing(job, kills):
    """One sentence that names the file, every file whole, and the same command goes on."""
    strike(job, ["full", "refused", "stopped"], kills // 2)


def test_a_second_process_is_refused_and_the_first_unharmed(job):
    _, _, changes = job.run()
    expected = job.result()
    shutil.rmtree(job.folder)
    job.folder.mkdir()
    process, line, stderr = job.start(Fault("held", changes - 3))
    assert line.recv() == "held"
    code, said, _ = job.run()
    assert code == 2
    assert "another process is w" in said.splitlines()[-1]
    line.send("go on")
    code, said, _ = job.end(process, line, stderr)
    assert code == 0, said
    assert job.result() == expected
    assert not job.left_over()

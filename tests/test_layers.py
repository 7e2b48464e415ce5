"""Imports only go down, and each outside library comes in at one place."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "minibert"
LAYERS = [
    ["errors"],
    ["files", "memory", "optimizer", "packed"],
    ["config", "tokenizer", "metrics"],
    ["gates", "figures"],
    ["model"],
    ["weights"],
    ["data"],
    ["runs", "pruning", "processes", "costs", "passes"],
    ["evaluation"],
    ["attention", "keyphrases", "retrieval"],
    ["importance", "heads"],
    ["ablation", "ranking"],
    ["training", "report", "cli"],
    ["selection", "plans", "page"],
    ["__init__"],
]
LEVEL = {module: level for level, modules in enumerate(LAYERS) for module in modules}
MODULES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted(ROOT.glob("*.py"))
ONLY_IN = {
    "safetensors": ["weights"],
    "huggingface_hub": ["weights"],
    "tokenizers": ["tokenizer"],
    "tyro": ["cli"],
    "snowballstemmer": ["keyphrases", "retrieval"],
    "ir_measures": ["retrieval"],
    "jinja2": ["page"],
    "matplotlib": ["figures"],
    "bm25s": [],  # the peer: tests and benchmarks only
}


def imported(source: str) -> set[str]:
    """Every module that a source imports, anywhere in it; "minibert.x" for our own."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "minibert" * (node.level > 0) + "." * (node.level > 0 and bool(node.module))
            module += node.module or ""
            if module == "minibert":
                found |= {f"minibert.{alias.name}" for alias in node.names}
            else:
                found.add(module)
    return found


def top(source: str) -> set[str]:
    return {name.split(".")[0] for name in imported(source)}


def too_high(module: str, source: str) -> list[str]:
    """The modules of ours that a module imports and that do not stand below it."""
    ours = {name for name in imported(source) if name.split(".")[0] == "minibert"}
    lower = {f"minibert.{m}" for m, level in LEVEL.items() if level < LEVEL[module]}
    return sorted(ours - lower)


def test_the_rule_can_be_broken():
    assert too_high("model", "from minibert import weights") == ["minibert.weights"]
    assert too_high("model", "def f():\n    import minibert.data") == ["minibert.data"]
    assert too_high("model", "from .gates import x\nfrom . import runs") == ["minibert.runs"]
    assert too_high("config", "from minibert.metrics import f1") == ["minibert.metrics"]
    assert too_high("data", "from minibert import BertConfig") == ["minibert.BertConfig"]
    assert too_high("data", "import minibert") == ["minibert"]
    assert too_high("data", "from minibert.weights import download\nimport torch") == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_imports_only_go_down(path):
    assert path.parent == PACKAGE, "one flat package"
    assert path.stem in LEVEL, "a new module: give it a place in LAYERS"
    assert too_high(path.stem, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_import_ours_only_from_the_package(path):
    source = path.read_text(encoding="utf-8")
    folders = {p.name for p in ROOT.iterdir() if p.is_dir()} - {"minibert"}
    assert not top(source) & ({p.stem for p in SCRIPTS} | folders)
    modules = {f"minibert.{m.stem}" for m in MODULES}
    assert {name for name in imported(source) if name.startswith("minibert")} <= modules


@pytest.mark.parametrize("path", MODULES + SCRIPTS, ids=lambda path: path.stem)
def test_outside_libraries_come_in_at_one_place(path):
    found = top(path.read_text(encoding="utf-8"))
    assert "transformers" not in found
    allowed = {library for library, modules in ONLY_IN.items() if path.stem in modules}
    assert found & ONLY_IN.keys() <= allowed


def takes_paths_only(source: str) -> set[str]:
    """Public functions, and public methods, of which an argument is a Path and never text."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and (node.name[0] != "_" or node.name == "__init__"):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            kinds = {ast.unparse(a.annotation) for a in arguments if a.annotation}
            found |= {node.name} if kinds & {"Path", "Path | None"} else set()
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_paths_may_be_given_as_text(path):
    assert takes_paths_only("def f(a: str | Path, b: Path): pass") == {"f"}
    assert not takes_paths_only("def f(a: str | Path): pass\ndef _g(a: Path): pass")
    assert not takes_paths_only(path.read_text(encoding="utf-8"))


# What runs code that comes with a file.
PICKLES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "runpy"}
RUNS = {"eval", "exec", "__import__", "torch.load", "torch.hub.load", "np.load", "numpy.load"}


def runs_foreign_code(source: str) -> set[str]:
    found = top(source) & PICKLES
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name | ast.Attribute):
            found |= {ast.unparse(node)} & RUNS
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} & RUNS
        elif isinstance(node, ast.keyword):
            found |= {node.arg} & {"trust_remote_code", "allow_pickle", "weights_only"}
    return found


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    from pickle import loads",
        "import torch\ntorch.load(x)",
        "from torch import load",
        "x = eval",
        "f(trust_remote_code=True)",
        "np.load(x)",
    ],
)
def test_foreign_code_is_noticed(source):
    assert runs_foreign_code(source)
    assert not runs_foreign_code("model.eval(); model.load(x); json.loads(x)")


@pytest.mark.parametrize("path", MODULES + SCRIPTS, ids=lambda path: path.stem)
def test_nothing_runs_code_that_comes_with_a_file(path):
    assert not runs_foreign_code(path.read_text(encoding="utf-8"))


def test_there_is_something_to_look_at():
    assert {"model", "weights", "data"} <= {path.stem for path in MODULES}
    assert "train" in {path.stem for path in SCRIPTS}

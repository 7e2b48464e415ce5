"""Imports only go down, and each outside library comes in at one place."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "minibert"

# The one import rule: a file imports from its own folder and from what stands before it. "core" is
# minibert/*.py, "scripts" the four scripts.
FOLDERS = ["core", "runtime", "text", "data", "evaluation", "training", "heads", "phrases"]
FOLDERS += ["keyphrases", "search", "export", "output", "report"]
# Inside the core: a file imports from the groups before its own.
CORE = [
    ["errors"],
    ["files"],
    ["config", "attention"],
    ["layers", "hub"],
    ["model", "gates"],
    ["pruning", "weights"],
    ["__init__"],
]
MODULES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted(ROOT.glob("*.py"))

# Each outside library is imported in one place.
ONLY_IN = {
    "safetensors": ["weights"],
    "huggingface_hub": ["hub"],
    "tokenizers": ["text.tokenizer"],
    "tyro": ["runtime.cli"],
    "filelock": ["runtime.folder"],
    "snowballstemmer": ["text.language"],
    "stopwordsiso": ["text.language"],
    "ir_measures": ["search.tuning"],
    "jinja2": ["report.page"],
    "onnx": ["export.onnx_graph"],
    "onnxruntime": ["export.onnx_file"],
    "matplotlib": ["output.plots"],
    "bm25s": [],  # the peer of our search: tests only
}


def name_in_package(path: Path) -> str:
    """minibert/heads/links.py -> "heads.links"; minibert/heads/__init__.py -> "heads.__init__"."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imported(source: str) -> set[str]:
    """Every module that a source imports, anywhere in it; "minibert.x" for our own."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "minibert" * (node.level > 0) + "." * (node.level > 0 and bool(node.module))
            module += node.module or ""
            if module == "minibert":
                names |= {f"minibert.{alias.name}" for alias in node.names}
            else:
                names.add(module)
    return names


def top(source: str) -> set[str]:
    return {name.split(".")[0] for name in imported(source)}


KNOWN = {*map(name_in_package, MODULES), *FOLDERS[1:]}


def folder_of(module: str) -> str:
    """The folder of a module below minibert: "heads.links" -> "heads", "model" -> "core"."""
    first = module.split(".")[0]
    return first if first in FOLDERS else "core"


def core_level(module: str) -> int:
    return next(level for level, names in enumerate(CORE) if module in names)


def wrong_imports(module: str, source: str) -> list[str]:
    """Our modules that `module` imports against the rule."""
    wrong = []
    for name in imported(source):
        if name.split(".")[0] != "minibert":
            continue
        other = name.removeprefix("minibert").removeprefix(".")
        ours, theirs = folder_of(module), folder_of(other)
        allowed = other in KNOWN and FOLDERS.index(theirs) <= FOLDERS.index(ours)
        if ours == theirs == "core":
            allowed = allowed and core_level(other) < core_level(module)
        if not allowed:
            wrong.append(name)
    return sorted(wrong)


def test_import_rule_can_be_broken():
    assert wrong_imports("model", "from minibert import weights") == ["minibert.weights"]
    assert wrong_imports("model", "def f():\n    import minibert.data") == ["minibert.data"]
    assert wrong_imports("model", "from .gates import x") == ["minibert.gates"]
    assert wrong_imports("data.corpus", "from minibert.evaluation.metrics import f1") == [
        "minibert.evaluation.metrics"
    ]
    assert wrong_imports("data.corpus", "from minibert import BertConfig") == [
        "minibert.BertConfig"
    ]
    assert wrong_imports("data.corpus", "import minibert") == ["minibert"]
    assert wrong_imports("data.corpus", "from minibert.hub import download\nimport torch") == []
    assert wrong_imports("heads.links", "from minibert.heads.costs import Cost") == []


@pytest.mark.parametrize("path", MODULES, ids=name_in_package)
def test_imports_follow_the_rule(path):
    module = name_in_package(path)
    assert wrong_imports(module, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_scripts_import_ours_only_from_the_package(path):
    source = path.read_text(encoding="utf-8")
    folders = {p.name for p in ROOT.iterdir() if p.is_dir()} - {"minibert"}
    assert not top(source) & ({p.stem for p in SCRIPTS} | folders)
    modules = {f"minibert.{name_in_package(m)}".removesuffix(".__init__") for m in MODULES}
    assert {name for name in imported(source) if name.startswith("minibert")} <= modules


@pytest.mark.parametrize("path", MODULES + SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_outside_libraries_come_in_at_one_place(path):
    names = top(path.read_text(encoding="utf-8"))
    assert "transformers" not in names
    module = name_in_package(path) if path in MODULES else path.stem
    allowed = {library for library, modules in ONLY_IN.items() if module in modules}
    assert names & ONLY_IN.keys() <= allowed


def takes_paths_only(source: str) -> set[str]:
    """Public functions, and public methods, of which an argument is a Path and never text."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and (node.name[0] != "_" or node.name == "__init__"):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            kinds = {ast.unparse(a.annotation) for a in arguments if a.annotation}
            names |= {node.name} if kinds & {"Path", "Path | None"} else set()
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_may_be_given_as_text(path):
    assert takes_paths_only("def f(a: str | Path, b: Path): pass") == {"f"}
    assert not takes_paths_only("def f(a: str | Path): pass\ndef _g(a: Path): pass")
    assert not takes_paths_only(path.read_text(encoding="utf-8"))


# What runs code that comes with a file.
PICKLES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "runpy"}
RUNS = {"eval", "exec", "__import__", "torch.load", "torch.hub.load", "np.load", "numpy.load"}


def runs_foreign_code(source: str) -> set[str]:
    names = top(source) & PICKLES
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name | ast.Attribute):
            names |= {ast.unparse(node)} & RUNS
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names} & RUNS
        elif isinstance(node, ast.keyword):
            names |= {node.arg} & {"trust_remote_code", "allow_pickle", "weights_only"}
    return names


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


@pytest.mark.parametrize("path", MODULES + SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_runs_code_that_comes_with_a_file(path):
    assert not runs_foreign_code(path.read_text(encoding="utf-8"))


def test_there_is_something_to_look_at():
    assert {"model", "weights", "data.corpus"} <= {name_in_package(path) for path in MODULES}
    assert "train" in {path.stem for path in SCRIPTS}


# Sizes and words --------------------------------------------------------------------------------

OTHERS = [
    path for folder in ("study", "benchmarks", "tests") for path in ROOT.glob(f"{folder}/**/*.py")
]
FORBIDDEN_NAMES = {"found", "told", "own", "every", "at", "kept", "there", "some"}
FORBIDDEN_WORDS = re.compile(
    "told from " + "noise|sil" + "ence|(was|were|is) " + "born|born " + "with", re.I
)


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def code_lines(function: ast.FunctionDef) -> int:
    """Lines with code in a function, without its docstring, comments and blank lines."""
    body = function.body
    if ast.get_docstring(function) is not None:
        body = body[1:]
    if not body:
        return 0
    statements = "\n".join(ast.unparse(statement) for statement in body)
    source = len({n.lineno for s in body for n in ast.walk(s) if hasattr(n, "lineno")})
    return max(source, statements.count("\n") + 1)


def test_core_can_be_read_in_an_hour():
    core = [path for path in MODULES if path.parent == PACKAGE]
    assert sum(map(lines_of, core)) <= 1300
    assert lines_of(PACKAGE / "model.py") <= 250


def test_folders_stay_small():
    for folder in FOLDERS[1:]:
        assert sum(map(lines_of, (PACKAGE / folder).rglob("*.py"))) <= 1000, folder


@pytest.mark.parametrize("path", MODULES + SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_stay_short(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            assert code_lines(node) <= 40, node.name


def bound_names(source: str) -> set[str]:
    """Names of variables and arguments."""
    nodes = list(ast.walk(ast.parse(source)))
    stored = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return stored | {n.arg for n in nodes if isinstance(n, ast.arg)}


@pytest.mark.parametrize(
    "path", MODULES + SCRIPTS + OTHERS, ids=lambda path: str(path.relative_to(ROOT))
)
def test_variables_are_named_by_nouns(path):
    assert bound_names("for at in x:\n    def f(told): found = 1") >= {"at", "told", "found"}
    assert not bound_names(path.read_text(encoding="utf-8")) & FORBIDDEN_NAMES


def test_texts_are_in_plain_words():
    patterns = (
        "*.md",
        "docs/*.md",
        "*.py",
        "minibert/**/*",
        "study/**/*",
        "benchmarks/**/*",
        "tests/**/*.py",
    )
    for path in {path for pattern in patterns for path in ROOT.glob(pattern)}:
        if path.suffix in {".py", ".md", ".html", ".j2"}:
            line = FORBIDDEN_WORDS.search(path.read_text(encoding="utf-8"))
            assert not line, f"{path}: {line}"

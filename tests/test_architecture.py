"""The borders between the rooms, checked on the source."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import llmstream_cli

PACKAGE = Path(llmstream_cli.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

PURE = ["budget", "detokenizer", "gbnf", "json_schema", "output", "prefix_cache", "scheduler"]
PURE += ["reasoning", "remote_answer", "remote_models", "remote_request", "sequence", "sse"]
PURE += [
    "schema_keywords",
    "schema_references",
    "schema_strings",
    "schema_text",
    "stop",
    "wire",
    "wishes",
]

# What every room may import, besides itself.
COMMON = {"errors", "files", "hosts", "strict_json"}

# What each may import of the others.
ALLOWED = {
    "errors": set[str](),
    "files": set[str](),
    "hosts": set[str](),
    "strict_json": set[str](),
    "machine": set[str](),
    "core": {"machine", "prompts", "sampling"},
    "prompts": set[str](),
    "models": {"machine"},
    "config": set[str](),
    "sampling": set[str](),
    "history": {"core", "prompts"},
    "cli": {"config", "core", "history", "machine", "models", "prompts", "sampling", "server"},
    "server": {"core", "prompts", "sampling"},
    "__main__": {"cli"},
    "__init__": set[str](),
}


def room(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_module_belongs_to_a_room() -> None:
    assert {room(path) for path in MODULES} == set(ALLOWED)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    here = room(path)
    for module in imported_modules(path):
        if not module.startswith("llmstream_cli."):
            continue
        there = module.split(".")[1]
        assert there in {here} | COMMON | ALLOWED[here], f"{path} imports {module}"


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if room(path) in {"server", "history"}],
    ids=lambda path: f"{room(path)}-{path.stem}",
)
def test_skins_and_history_know_engines_only_as_a_protocol(path: Path) -> None:
    for module in imported_modules(path):
        if module.startswith(("llmstream_cli.core", "llmstream_cli.prompts")):
            known = ("core.api", "core.json_schema", "prompts.messages")
            assert module.startswith(tuple(f"llmstream_cli.{name}" for name in known))


def test_asking_imports_nothing_of_the_server() -> None:
    script = (
        "import sys, llmstream_cli.cli.app, llmstream_cli.cli.ask, llmstream_cli.core.engine\n"
        "print(*sys.modules, sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    late = {"quart", "hypercorn", "h11", "pydantic", "prometheus_client", "llguidance", "numpy"}
    late |= {"httpx2", "sqlite3"}
    assert not late & set(done.stdout.decode().split())


@pytest.mark.parametrize(
    ("library", "module"),
    [("llama_cpp", "core/llama/bindings.py"), ("llguidance", "core/constraint.py")],
)
def test_only_one_module_imports_it(library: str, module: str) -> None:
    importers = {
        path.relative_to(PACKAGE).as_posix()
        for path in MODULES
        if any(imported.split(".")[0] == library for imported in imported_modules(path))
    }
    assert importers == {module}


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_know_no_clock_thread_or_model(module: str) -> None:
    standard = {"array", "codecs", "collections", "contextlib", "dataclasses", "decimal"}
    standard |= {
        "difflib",
        "enum",
        "functools",
        "graphlib",
        "itertools",
        "json",
        "math",
        "re",
        "reprlib",
        "sys",
    }
    standard |= {"types", "typing", "urllib"}
    pure = {*PURE, "api"}
    for imported in imported_modules(PACKAGE / "core" / f"{module}.py"):
        top, *rest = imported.split(".")
        if top == "llmstream_cli":
            assert rest[0] in {"errors", "sampling", "strict_json"} or (
                rest[0] == "core" and rest[1] in pure
            ), imported
        else:
            assert top in standard, imported

"""The borders between the rooms, checked on the source."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import llmstream_cli

PACKAGE = Path(llmstream_cli.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# Modules that know no clock, thread or model.
PURE = {
    "core": "output prefill_budget prefix_cache reasoning scheduler sequence",
    "core/grammar": "gbnf json_schema schema_keywords schema_strings",
    "engines": "openai_format openai_tools",
    "prompts": "messages",
    "prompts/tools": "schemas",
}
PURE_MODULES = [f"{room}/{module}" for room, modules in PURE.items() for module in modules.split()]

# What every room may import, besides itself.
COMMON = {"errors", "files", "strict_json"}

# What each may import of the others.
ALLOWED = {
    "errors": set[str](),
    "files": set[str](),
    "strict_json": set[str](),
    "machine": set[str](),
    "api": {"prompts", "sampling"},
    "core": {"api", "machine", "prompts", "sampling"},
    "engines": {"api", "core", "machine", "prompts", "sampling"},
    "prompts": set[str](),
    "models": {"machine"},
    "sampling": set[str](),
    "history": {"api", "prompts"},
    "cli": {
        *("api", "core", "engines", "history", "machine", "models", "prompts"),
        *("sampling", "server"),
    },
    "server": {"api", "core", "prompts", "sampling"},
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


MAX_LINES, MAX_ENTRIES = 400, 16


def dotted(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def test_no_import_leads_in_a_circle() -> None:
    modules = {dotted(path): path for path in MODULES}
    graph = {
        name: (set(imported_modules(path)) & set(modules)) - {name, name.rpartition(".")[0]}
        for name, path in modules.items()
    }
    assert len([*TopologicalSorter(graph).static_order()]) == len(modules)


def test_modules_and_folders_can_be_held_in_a_head() -> None:
    lines = {path: len(path.read_text().splitlines()) for path in MODULES}
    assert [path for path in MODULES if lines[path] > MAX_LINES] == []
    for folder in {path.parent for path in MODULES}:
        entries = [path for path in folder.iterdir() if path.name != "__pycache__"]
        assert len(entries) <= MAX_ENTRIES, folder


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if room(path) in {"server", "history"}],
    ids=lambda path: f"{room(path)}-{path.stem}",
)
def test_skins_and_history_know_engines_only_as_a_protocol(path: Path) -> None:
    for module in imported_modules(path):
        if module.startswith(("llmstream_cli.core", "llmstream_cli.prompts")):
            known = ("core.grammar.json_schema", "prompts.messages")
            assert module.startswith(tuple(f"llmstream_cli.{name}" for name in known))


def test_asking_imports_nothing_of_the_server() -> None:
    script = (
        "import sys, llmstream_cli.cli.app, llmstream_cli.cli.ask.command\n"
        "import llmstream_cli.engines.in_process\n"
        "print(*sys.modules, sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    late = {"quart", "hypercorn", "h11", "pydantic", "prometheus_client", "llguidance", "numpy"}
    late |= {"httpx2", "sqlite3"}
    assert not late & set(done.stdout.decode().split())


@pytest.mark.parametrize(
    ("library", "module"),
    [("llama_cpp", "core/llama/bindings.py"), ("llguidance", "core/grammar/constraint.py")],
)
def test_only_one_module_imports_it(library: str, module: str) -> None:
    importers = {
        path.relative_to(PACKAGE).as_posix()
        for path in MODULES
        if any(imported.split(".")[0] == library for imported in imported_modules(path))
    }
    assert importers == {module}


@pytest.mark.parametrize("module", PURE_MODULES)
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
    for imported in imported_modules(PACKAGE / f"{module}.py"):
        top, *rest = imported.split(".")
        if top == "llmstream_cli":
            pure = {*PURE_MODULES, "api", "errors", "sampling", "strict_json"}
            assert any("/".join(rest[:length]) in pure for length in (1, 2, 3)), imported
        else:
            assert top in standard, imported

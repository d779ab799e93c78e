"""The borders between the rooms, checked on the source."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import llmstream_cli

PACKAGE = Path(llmstream_cli.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

PURE = ["budget", "detokenizer", "output", "prefix_cache", "scheduler", "sequence", "stop", "wire"]

# What each room may import of the others; itself, and `errors`, always.
ALLOWED = {
    "errors": set[str](),
    "core": {"prompts"},
    "prompts": set[str](),
    "models": set[str](),
    "cli": {"core", "models", "prompts"},
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
        assert there in {here, "errors"} | ALLOWED[here], f"{path} imports {module}"


def test_only_one_module_imports_llama_cpp() -> None:
    importers = {
        path.relative_to(PACKAGE).as_posix()
        for path in MODULES
        if any(module.split(".")[0] == "llama_cpp" for module in imported_modules(path))
    }
    assert importers == {"core/llama/bindings.py"}


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_know_no_clock_thread_or_model(module: str) -> None:
    standard = {"codecs", "collections", "contextlib", "dataclasses", "enum", "functools"}
    standard |= {"itertools", "json", "reprlib", "types", "typing"}
    pure = {*PURE, "api"}
    for imported in imported_modules(PACKAGE / "core" / f"{module}.py"):
        top, *rest = imported.split(".")
        if top == "llmstream_cli":
            assert rest[0] == "errors" or (rest[0] == "core" and rest[1] in pure), imported
        else:
            assert top in standard, imported

"""Which files have passed the checks before."""

import os
from pathlib import Path

import pytest

from llmstream_cli.models.checked import note_checked, was_checked


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMSTREAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF and more")
    return path


def test_a_file_is_known_once_it_was_noted_until_it_changes(cache: Path, model: Path) -> None:
    assert not was_checked(model)
    note_checked(model)
    assert was_checked(model)
    model.write_bytes(b"GGUF and less of it")
    assert not was_checked(model)


def test_a_file_in_its_place_is_not_known_even_with_its_times(
    cache: Path, model: Path, tmp_path: Path
) -> None:
    note_checked(model)
    times = model.stat().st_atime_ns, model.stat().st_mtime_ns
    other = tmp_path / "other"
    other.write_bytes(model.read_bytes())
    os.utime(other, ns=times)
    other.replace(model)
    assert not was_checked(model)


def test_a_part_of_a_model_is_looked_at_each_time(cache: Path, tmp_path: Path) -> None:
    part = tmp_path / "m-00001-of-00002.gguf"
    part.write_bytes(b"GGUF and more")
    note_checked(part)
    assert not was_checked(part)


@pytest.mark.parametrize("name", ["none", "nul\0", "model.gguf/none"])
def test_a_missing_file_is_not_known(cache: Path, model: Path, name: str) -> None:
    note_checked(model.parent / name)
    assert not was_checked(model.parent / name)
    assert not cache.exists()


def test_what_cannot_be_noted_is_forgotten(cache: Path, model: Path) -> None:
    cache.write_text("not a folder")
    note_checked(model)
    assert not was_checked(model)

"""Which files have been loaded before."""

import os
from pathlib import Path

import pytest

from llmstream_cli.models import trust
from llmstream_cli.models.trust import has_loaded, note_loaded


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMSTREAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "loaded.json"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF and more")
    return path


def test_a_file_is_known_once_it_was_noted(record: Path, model: Path) -> None:
    assert not has_loaded(model)
    note_loaded(model)
    assert has_loaded(model)
    assert [path.name for path in record.parent.iterdir()] == ["loaded.json"]


def test_a_file_is_known_from_any_folder(
    record: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent)
    note_loaded(Path(model.name))
    assert has_loaded(model)


def test_a_changed_file_is_not_known(record: Path, model: Path) -> None:
    note_loaded(model)
    model.write_bytes(b"GGUF and less")
    assert not has_loaded(model)


def test_a_file_in_its_place_is_not_known_even_with_its_times(
    record: Path, model: Path, tmp_path: Path
) -> None:
    note_loaded(model)
    times = model.stat().st_atime_ns, model.stat().st_mtime_ns
    other = tmp_path / "other"
    other.write_bytes(model.read_bytes())
    os.utime(other, ns=times)
    other.replace(model)
    assert not has_loaded(model)


def test_all_parts_of_a_model_count(record: Path, tmp_path: Path) -> None:
    first, second = (tmp_path / f"m-0000{number}-of-00002.gguf" for number in (1, 2))
    for part in (first, second):
        part.write_bytes(b"GGUF and more")
    note_loaded(first)
    assert has_loaded(first)
    second.write_bytes(b"GGUF and less")
    assert not has_loaded(first)
    second.unlink()
    assert not has_loaded(first)


def test_a_missing_file_is_not_known(record: Path, model: Path) -> None:
    note_loaded(model.with_name("none"))
    assert not has_loaded(model.with_name("none"))
    assert not record.exists()


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b'{"/x": 3}'])
def test_a_damaged_record_is_an_empty_one(record: Path, model: Path, content: bytes) -> None:
    record.parent.mkdir()
    record.write_bytes(content)
    assert not has_loaded(model)
    note_loaded(model)
    assert has_loaded(model)


def test_a_record_that_cannot_be_written_is_forgotten(record: Path, model: Path) -> None:
    record.parent.write_text("not a folder")
    note_loaded(model)
    assert not has_loaded(model)


def test_the_oldest_are_forgotten(
    record: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "_MAX_FILES", 2)
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.touch()
        note_loaded(path)
    assert [has_loaded(path) for path in paths] == [False, True, True]

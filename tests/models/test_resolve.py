"""From a name or a path to a file."""

import os
from pathlib import Path

import pytest

from llmstream_cli.errors import (
    InvalidValueError,
    LLMStreamError,
    ModelError,
    ModelNotFoundError,
)
from llmstream_cli.models.resolve import ModelChoice, resolve
from tests.candle_files import write_model
from tests.models.progress_log import ProgressLog

NOT_NEEDED = "--tokenizer is not needed"


def test_without_a_name_the_embedded_model_is_found(model_path: Path) -> None:
    assert resolve().path == model_path


def test_a_preset_is_found_by_name(model_path: Path) -> None:
    found = resolve(ModelChoice(preset="smollm2"))
    assert found.path == model_path
    assert found.seconds >= 0


def test_a_path_may_begin_with_a_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_path: Path
) -> None:
    (tmp_path / "my.gguf").symlink_to(model_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve(ModelChoice(model="~/my.gguf")).path == tmp_path / "my.gguf"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"", "is empty"), (b"GGU", "is not a GGUF file"), (b"PK\x03\x04rest", "is not a GGUF file")],
)
def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=complaint):
        resolve(ModelChoice(model=str(path)))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="there is no file"):
        resolve(ModelChoice(model=str(tmp_path / "none.gguf")))


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(ModelNotFoundError, match="is empty"):
        resolve(ModelChoice(model=""))
    with pytest.raises(ModelNotFoundError, match="no model is called ''"):
        resolve(ModelChoice(preset=""))


@pytest.mark.parametrize("path", ["x" * 300, "a\0b", "~no-such-user-here/m.gguf"])
def test_an_impossible_name_is_refused(path: str) -> None:
    with pytest.raises(ModelError):
        resolve(ModelChoice(model=path))


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a directory"):
        resolve(ModelChoice(model=str(tmp_path)))


def test_a_pipe_is_refused_without_reading_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelError, match="is not a regular file"):
        resolve(ModelChoice(model=str(tmp_path / "pipe")))


def test_a_file_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "secret.gguf"
    path.write_bytes(b"GGUF")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    for method in ("open", "stat"):  # root may read everything, so chmod proves nothing
        with monkeypatch.context() as patch:
            patch.setattr(Path, method, refuse)
            with pytest.raises(LLMStreamError, match=r"cannot read .*Permission denied"):
                resolve(ModelChoice(model=str(path)))


@pytest.mark.parametrize(
    ("model", "file", "complaint"),
    [
        ("smollm2", "m.gguf", "smollm2 is none"),
        ("./m.gguf", "m.gguf", "m.gguf is none"),
        ("user/repo:Q8_0", "m.gguf", "user/repo:Q8_0 names a file already"),
        ("user/repo/n.gguf", "m.gguf", "user/repo/n.gguf names a file already"),
        ("user/repo", "README.md", "README.md is none"),
    ],
)
def test_a_file_belongs_to_a_repository(
    own_caches: Path, model: str, file: str, complaint: str
) -> None:
    with pytest.raises(InvalidValueError, match=complaint):
        resolve(ModelChoice(model=model, file=file))


@pytest.mark.parametrize("name", ["none.json", "folder/none.json", "./a/b/c", "/none"])
def test_a_missing_tokenizer_is_not_looked_for_on_the_hub(
    own_caches: Path, tmp_path: Path, name: str
) -> None:
    model = write_model(tmp_path / "weights.gguf")
    with pytest.raises(ModelNotFoundError, match=f"there is no tokenizer file {name}"):
        resolve(ModelChoice(model=str(model), tokenizer=name))


def test_a_tokenizer_that_is_not_needed_is_told_of(model_path: Path) -> None:
    progress = ProgressLog()
    resolve(ModelChoice(tokenizer="none.json"), progress)
    assert progress.notes == [f"{model_path.name} has a vocabulary of its own; {NOT_NEEDED}"]

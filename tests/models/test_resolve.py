"""From a name or a path to a file that llama.cpp can load."""

import os
from pathlib import Path

import pytest

from llmstream_cli.errors import InvalidValueError, LLMStreamError, ModelError, ModelNotFoundError
from llmstream_cli.models import gguf
from llmstream_cli.models.resolve import ModelChoice, resolve
from tests.candle_files import write_model
from tests.gguf_files import write_phi2
from tests.models.progress_log import ProgressLog


def test_a_preset_is_found_by_name_and_the_embedded_one_without(model_path: Path) -> None:
    for choice in (None, ModelChoice(preset="smollm2"), ModelChoice(model="SmolLM2")):
        found = resolve(choice)
        assert (found.path, found.name) == (model_path, "smollm2")


def test_a_path_may_begin_with_a_tilde(own_caches: Path) -> None:
    path = write_phi2(own_caches / "my.gguf")
    found = resolve(ModelChoice(model="~/my.gguf"))
    assert (found.path, found.name, found.preset) == (path, "my", None)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.gguf").write_bytes(b"")
    (tmp_path / "short.gguf").write_bytes(b"GGU")
    os.mkfifo(tmp_path / "pipe")
    for model, complaint in {
        "": "is empty",
        "x" * 300: "no model is called",
        "a\0b": "is not a model's name",
        "~no-such-user-here/m.gguf": "there is no file",
        str(tmp_path): "is a directory",
        str(tmp_path / "none.gguf"): "there is no file",
        str(tmp_path / "empty.gguf"): "is empty",
        str(tmp_path / "short.gguf"): "is not a GGUF file",
        str(tmp_path / "pipe"): "is not a regular file",
    }.items():
        with pytest.raises(ModelError, match=complaint):
            resolve(ModelChoice(model=model))
    with pytest.raises(ModelNotFoundError, match="no model is called ''"):
        resolve(ModelChoice(preset=""))


@pytest.mark.parametrize("method", ["open", "stat"])
def test_a_file_that_cannot_be_read_is_refused(
    own_caches: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    path = own_caches / "secret.gguf"
    path.write_bytes(b"GGUF")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, method, refuse)  # root may read everything: chmod proves nothing
    with pytest.raises(LLMStreamError, match=r"cannot read .*Permission denied"):
        resolve(ModelChoice(model=str(path)))


def test_a_file_is_looked_through_once_and_again_when_it_has_changed(
    own_caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = ModelChoice(model=str(write_phi2(own_caches / "m.gguf")))
    path = resolve(choice).path
    with monkeypatch.context() as patch:
        patch.setattr(gguf, "read_header", lambda *_, **__: pytest.fail("read again"))
        assert resolve(choice).path == path
    content = path.read_bytes()
    path.write_bytes(content[:-1000])
    for _ in range(2):
        with pytest.raises(ModelError, match="is incomplete"):
            resolve(choice)
    path.write_bytes(content)
    monkeypatch.setenv("LLMSTREAM_CACHE", str(path / "no folder"))
    assert resolve(choice).path == path  # a record that cannot be kept is no error
    part = path.rename(own_caches / "m-00001-of-00001.gguf")
    monkeypatch.setenv("LLMSTREAM_CACHE", str(own_caches / "parts"))
    resolve(ModelChoice(model=str(part)))  # others of its parts may change unseen
    assert not (own_caches / "parts").exists()


@pytest.mark.parametrize(
    ("choice", "complaint"),
    [
        ({"model": "smollm2", "file": "m.gguf"}, "smollm2 is none"),
        ({"model": "./m.gguf", "file": "m.gguf"}, "m.gguf is none"),
        ({"model": "user/repo:Q8_0", "file": "m.gguf"}, "user/repo:Q8_0 names a file already"),
        ({"model": "user/repo/n.gguf", "file": "m.gguf"}, "user/repo/n.gguf names a file already"),
        ({"model": "user/repo", "file": "README.md"}, "README.md is none"),
        ({"file": "m.gguf"}, "give that with --model"),
        ({"preset": "phi-2", "model": "phi-2"}, "both name a model"),
    ],
)
def test_a_choice_that_contradicts_itself_is_refused(
    own_caches: Path, choice: dict[str, str], complaint: str
) -> None:
    with pytest.raises(InvalidValueError, match=complaint):
        resolve(ModelChoice(**choice))


@pytest.mark.parametrize("name", ["none.json", "folder/none.json", "./a/b/c", "/none"])
def test_a_missing_tokenizer_is_not_looked_for_on_the_hub(own_caches: Path, name: str) -> None:
    model = write_model(own_caches / "weights.gguf")
    with pytest.raises(ModelNotFoundError, match=f"there is no tokenizer file {name}"):
        resolve(ModelChoice(model=str(model), tokenizer=name))


def test_a_tokenizer_that_is_not_needed_is_told_of(model_path: Path) -> None:
    progress = ProgressLog()
    resolve(ModelChoice(tokenizer="none.json"), progress)
    (note,) = progress.notes
    assert note == f"{model_path.name} has a vocabulary of its own; --tokenizer is not needed"

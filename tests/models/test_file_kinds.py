"""A file that is no model is told by what it is, with what to do about it."""

import gzip
import io
import json
import zipfile
from pathlib import Path

import pytest
from gguf import GGUFWriter

from llmstream_cli.errors import ModelError
from llmstream_cli.models.gguf import read_header
from llmstream_cli.models.gguf_check import check_gguf
from llmstream_cli.models.resolve import ModelChoice, resolve


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model/data.pkl", b"x")
    return buffer.getvalue()


SAFETENSORS = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
LAYER = {"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:00"}
MANIFEST = json.dumps({"schemaVersion": 2, "layers": [LAYER]}).encode()

FILES = {
    "html": (b"<!DOCTYPE html>\n<html><head>", "a web page: download"),
    "html with a comment": (b"\n<!-- a -->\n<HTML lang=en>", "a web page"),
    "xml": (b'<?xml version="1.0"?><Error>', "a web page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9", "`git lfs pull`"),
    "safetensors": (
        len(SAFETENSORS).to_bytes(8, "little") + SAFETENSORS + bytes(4),
        "a safetensors file: convert it",
    ),
    "pytorch": (zipped(), "a PyTorch file or an archive"),
    "pickle": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "a PyTorch file"),
    "gzip": (gzip.compress(b"GGUF" * 100), "unpack it"),
    "ggml": (b"lmgg" + bytes(40), "from before GGUF"),
    "ggjt": (b"tjgg\x03\0\0\0" + bytes(40), "from before GGUF"),
    "ggla": (b"algg\x01\0\0\0" + bytes(40), "a LoRA adapter from before GGUF"),
    "manifest": (MANIFEST, "a manifest of Ollama's"),
    "json": (b'{"architectures": ["LlamaForCausalLM"]}', "JSON, such as a configuration"),
    "modelfile": (b"# mine\nFROM ./model.gguf\n", "name the .gguf file behind its FROM"),
    "imatrix": (
        (2).to_bytes(4, "little") + (20).to_bytes(4, "little") + b"blk.0.attn_k.weight\0",
        "an importance matrix",
    ),
    "llamafile": (b"MZqFpD='\n" + bytes(100), "a llamafile"),
    "program": (b"\x7fELF\x02\x01\x01" + bytes(100), "a program"),
    "zeros": (bytes(5000), "an interrupted download"),
    "text": (b"The quick brown fox jumps over the lazy dog.\n", "a text"),
    "another": (b"\xfe\xdc\xba\x98" * 20, "is not a GGUF file"),
    "big-endian": (
        b"GGUF" + (3).to_bytes(4, "big") + bytes(16),
        "is written for big-endian machines; get it",
    ),
    "version 1": (b"GGUF" + (1).to_bytes(4, "little") + bytes(16), "has version 1 of GGUF"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_gguf(tmp_path: Path, name: str) -> None:
    data, told = FILES[name]
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    with pytest.raises(ModelError) as caught:
        read_header(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert told in message
    assert "\n" not in message


FOLDERS = {
    "": "a directory without a .gguf file; `llmstream models list` tells",
    "mmproj-x.gguf README.md": "a directory without a .gguf file; `llmstream models list` tells",
    "config.json tokenizer.json model.safetensors": "a directory of Hugging Face's without",
    "model.gguf tokenizer.json config.json": "name the model file in it: {}/model.gguf",
    "b.gguf a-00001-of-00002.gguf a-00002-of-00002.gguf":
        "a directory with several model files; name one of them: a-00001-of-00002.gguf, b.gguf",
    "1.gguf 2.gguf 3.gguf 4.gguf 5.gguf 6.gguf": "name one of them: 1.gguf, 2.gguf, 3.gguf, "
        "4.gguf, 5.gguf, …",
    "refs/main snapshots/1f/a.gguf": "name the model file in it: {}/snapshots/1f/a.gguf",
}  # fmt: skip


@pytest.mark.parametrize("files", FOLDERS)
def test_a_folder_is_told_by_the_model_files_in_it(tmp_path: Path, files: str) -> None:
    for file in files.split():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    with pytest.raises(ModelError) as caught:
        resolve(ModelChoice(model=f"{tmp_path}/"))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path} is a directory")
    assert FOLDERS[files].format(tmp_path) in message


KEYS = {
    "mmproj": ("clip", {"general.type": "mmproj"}, "a projector (mmproj)"),
    "old projector": ("clip", {"clip.has_vision_encoder": "yes"}, "a projector (mmproj)"),
    "lora": ("llama", {"general.type": "adapter", "adapter.type": "lora"}, "a LoRA adapter"),
    "control vector": ("controlvector", {}, "a control vector"),
    "imatrix": ("llama", {"general.type": "imatrix"}, "an importance matrix"),
    "vocabulary": ("llama", {"tokenizer.ggml.model": "gpt2"}, "a vocabulary without weights"),
}


@pytest.mark.parametrize("name", KEYS)
def test_a_gguf_file_that_is_no_model(tmp_path: Path, name: str) -> None:
    architecture, keys, told = KEYS[name]
    path = tmp_path / "m.gguf"
    writer = GGUFWriter(path, architecture)
    for key, value in keys.items():
        writer.add_string(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ModelError, match=r"name the model's own file") as caught:
        check_gguf(path)
    assert f"{path} is {told}" in str(caught.value)

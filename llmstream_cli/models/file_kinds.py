"""What a file or a folder is that is named in the place of a GGUF file, and what to do about it."""

import re
from pathlib import Path

from llmstream_cli.models.reference import is_model

HEAD_BYTES = 1024
_MAX_NAMES = 5

_GET_GGUF = "get the model as a .gguf file"
_CONVERT = f"convert it with llama.cpp's convert_hf_to_gguf.py, or {_GET_GGUF}"
_UNPACK = "unpack it and name the .gguf file in it"

# How files begin; the first that fits counts.
_BEGINNINGS = [
    (re.compile(beginning, re.DOTALL | re.IGNORECASE), kind)
    for beginning, kind in (
        (
            rb"\s*(<!--.*?-->\s*)?<(!doctype html|html|head|body|\?xml)",
            "a web page: download the file itself (on the Hub, a link with /resolve/ in it)",
        ),
        (
            rb"version https://git-lfs\.github\.com/spec/",
            "a Git LFS pointer, which only stands for the file: get that with `git lfs pull`",
        ),
        (rb".{7}\0\s*{", f"a safetensors file: {_CONVERT}"),
        (rb"PK\x03\x04|\x80[\x02-\x05]", f"a PyTorch file or an archive: {_CONVERT}"),
        (rb"\x89HDF\r\n", f"a Keras (HDF5) file: {_CONVERT}"),
        (rb".{4}TFL3", f"a TensorFlow Lite file: {_GET_GGUF}"),
        (rb"\x08[\x01-\x0d]\x12", f"an ONNX file: {_GET_GGUF}"),
        (
            rb"\x1f\x8b|BZh\d|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|.{257}ustar",
            f"an archive: {_UNPACK}",
        ),
        (
            rb"(lmgg|fmgg|tjgg)",
            f"a GGML file, from before GGUF, which llama.cpp no longer reads: {_GET_GGUF}",
        ),
        (rb"algg", f"a LoRA adapter from before GGUF, and no model: {_GET_GGUF}"),
        (
            rb"MZqFpD",
            f"a llamafile, which is a program: unzip the .gguf file in it, or {_GET_GGUF}",
        ),
        (rb"\x7fELF|MZ|\xcf\xfa\xed\xfe|\xca\xfe\xba\xbe|#!", f"a program: {_GET_GGUF}"),
        (
            rb"\s*{.*application/vnd\.(docker|oci|ollama)",
            "a manifest of Ollama's: name the blob of its layer vnd.ollama.image.model",
        ),
        (
            rb"\s*[{\[]\s*[\"{\[}\]]",
            f"JSON, such as a configuration or an error from a server: {_GET_GGUF}",
        ),
        (
            rb"(\s*#[^\n]*\n|\s)*FROM\s",
            "a Modelfile of Ollama's: name the .gguf file behind its FROM",
        ),
        (rb".{4}[\x04-\x60]\0\0\0[\w.]+\.weight", f"an importance matrix, no model: {_GET_GGUF}"),
        (rb"\0{64}", "empty space, an interrupted download perhaps: fetch it again"),
        (rb"[\t\n\r\x20-\x7e]{32}", f"a text: {_GET_GGUF}"),
    )
]


def kind_of_file(head: bytes) -> str | None:
    """Tell what a file is that does not begin as GGUF does, as far as its first bytes show it."""
    return next((kind for beginning, kind in _BEGINNINGS if beginning.match(head)), None)


def kind_of_folder(folder: Path) -> str:
    """Tell which model files a folder has, or whose folder it is if it has none."""
    try:
        paths = [*folder.glob("*"), *folder.glob("snapshots/*/*")]  # of the Hub's cache
    except OSError as error:
        return f"a directory that cannot be read: {error.strerror}"
    names = sorted(str(path.relative_to(folder)) for path in paths if is_model(path.name))
    match names:
        case [name]:
            return f"a directory; name the model file in it: {folder / name}"
        case [_, *_]:
            shown = ", ".join([*names[:_MAX_NAMES], "…"][: len(names)])
            return f"a directory with several model files; name one of them: {shown}"
    if any(path.suffix == ".safetensors" or path.name == "config.json" for path in paths):
        return f"a directory of Hugging Face's without a .gguf file: {_CONVERT}"
    return "a directory without a .gguf file; `llmstream models list` tells which models there are"

"""What a file that is no usable GGUF is instead, and what to do about it."""

import re

from llmstream_cli.models.gguf_format import GGUFHeader

HEAD_BYTES = 1024

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


def kind_of_gguf(header: GGUFHeader) -> str | None:
    """Tell what a GGUF file is that holds no model; None where it may hold one."""
    architecture = header.metadata.get("general.architecture")
    general_type = header.metadata.get("general.type", "model")
    name_model = "name the model's own file"
    if general_type in {"mmproj", "projector"} or architecture == "clip":
        return f"a projector (mmproj), the part of a model that reads images or sound: {name_model}"
    if general_type == "adapter" or "adapter.type" in header.metadata:
        return f"a LoRA adapter, which changes a model and is none: {name_model}, merged with it"
    if architecture == "controlvector":
        return f"a control vector, which steers a model and is none: {name_model}"
    if general_type == "imatrix":
        return f"an importance matrix, which is for quantizing a model: {name_model}"
    if not header.tensors and "tokenizer.ggml.model" in header.metadata:
        return f"a vocabulary without weights: {name_model}"
    return None

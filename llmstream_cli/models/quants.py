"""Which files of a repository are models, and which of them a quantization means; pure."""

import re
from collections.abc import Iterable

# llama.cpp's preference where none is named (common/download.cpp, find_best_model).
DEFAULT_QUANTS = ("Q4_K_M", "Q8_0")

# What lies beside a model and is none itself, in llama.cpp's spelling: projectors for images,
# importance matrices, draft models for speculative decoding.
_COMPANIONS = ("mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-")

# Parts as llama-gguf-split names them.
_PART = re.compile(r"(?P<stem>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)

_QUANT = re.compile(
    r"(?<![a-z0-9])((?:UD-)?(?:(?:I?Q|TQ)\d|B?F16|F32|FP16|FP32|MXFP4|NVFP4)\w*)$", re.IGNORECASE
)


def is_model(file: str) -> bool:
    """Whether a file of a repository can be loaded as a model by itself or as the first part."""
    name = file.rsplit("/", 1)[-1]
    if not name.lower().endswith(".gguf") or any(word in name for word in _COMPANIONS):
        return False
    return file == part_names(file)[0]


def part_names(file: str) -> tuple[str, ...]:
    """Return all files of a split model, first part first; of any other file only itself."""
    match = _PART.fullmatch(file)
    if match is None or not 1 <= int(match["index"]) <= int(match["count"]):
        return (file,)
    stem, count, end = match["stem"], match["count"], file[-len(".gguf") :]
    return tuple(f"{stem}-{index:05}-of-{count}{end}" for index in range(1, int(count) + 1))


def quant_of(file: str) -> str | None:
    """Return the quantization that a file's name ends with, as it is written there."""
    match = _PART.fullmatch(file)
    found = _QUANT.search(match["stem"] if match else re.sub(r"(?i)\.gguf$", "", file))
    return found[1] if found else None


def choose(files: Iterable[str], quant: str | None) -> str | None:
    """Choose the model among a repository's files; of a split one, its first part.

    Without a quantization: Q4_K_M, then Q8_0, then the first model, as llama.cpp does. Unlike
    there, a quantization has to be a whole word of the name: `F16` does not mean `BF16`.
    """
    models = [file for file in files if is_model(file)]
    for wanted in DEFAULT_QUANTS if quant is None else (quant,):
        word = re.compile(rf"(?<![a-z0-9]){re.escape(wanted)}[./-]", re.IGNORECASE)
        for file in models:
            if word.search(file):
                return file
    return models[0] if models and quant is None else None

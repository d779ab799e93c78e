"""What is wrong with a GGUF file, found before llama.cpp sees it.

llama.cpp refuses a damaged file without saying what to do about it, and some it does not refuse:
an assertion fails and takes the process along. So what its loader asserts is asked here first.
Nothing is said against what it merely warns of: such files are about, and they work.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from llmstream_cli.errors import ModelError, ModelNotFoundError
from llmstream_cli.models.gguf import (
    STRING,
    UINT16,
    VOCABULARY,
    Array,
    GGUFHeader,
    Tensor,
    padded,
    quoted,
    read_header,
)
from llmstream_cli.models.reference import part_names

_NO_TOKEN = (1 << 32) - 1  # how some converters write that a model has no such token

_MAX_LAYERS = 512  # LLAMA_MAX_LAYERS, LLAMA_MAX_EXPERTS
_MAX_EXPERTS = 1024
_MAX_PARTS = 1 << 10
_MAX_INVALID_CHARACTERS = 1000  # of a vocabulary; llama.cpp takes some 10 microseconds for each
_MMAP_ALIGNMENT = 32  # of the first weight, in the mapped file

_ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")
_EPSILONS = ("layer_norm_epsilon", "layer_norm_rms_epsilon", "group_norm_epsilon")
# Types in which llama.cpp keeps what it computes, and that it cannot multiply with.
_NOT_FOR_WEIGHTS = frozenset({"Q8_1", "Q8_K", "I8", "I16", "F64"})
_INDICES = frozenset({"I32", "I64"})
_FOR_VECTORS = frozenset({"F32"}) | _INDICES
_ONLY_FLOAT32 = ("ssm_conv1d.weight", "shortconv.conv.weight", "token_types.weight")
# Those that are rotated whole where the file does not say how far.
_ROTATING_ENCODERS = frozenset(
    {"jina-bert-v3", "modern-bert", "neo-bert", "nomic-bert", "nomic-bert-moe"}
)
# Those that a graph is built for only where keys and values are of one size.
_EQUAL_HEADS = frozenset(
    {"falcon", "gpt2", "gptneox", "granite", "granitehybrid", "llama", "mistral3", "olmo2"}
    | {"phi2", "phi3", "qwen2", "qwen2moe", "qwen3", "qwen3moe", "smollm3", "stablelm"}
)


def check_gguf(path: Path, header: GGUFHeader | None = None) -> None:
    """Refuse what llama.cpp cannot load, or would not survive.

    Of a model in several files it takes the first; a header that has been read already, with the
    strings of `VOCABULARY`, is not read again.

    Raises:
        ModelNotFoundError: there is no such file, or a part of the model is missing.
        ModelError: the file is no model, or it is damaged or incomplete.
    """
    header = header or read_header(path, strings=(VOCABULARY,))
    kind = _kind_of_other(header)
    if kind is not None:
        raise ModelError(f"{path} is {kind}")
    _check_data(path, header)
    _check_parts(path, header)
    for problem in _problems(header):
        raise ModelError(f"cannot use {path}: {problem}")


def _kind_of_other(header: GGUFHeader) -> str | None:
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


def _check_data(path: Path, header: GGUFHeader) -> None:
    """Check that the weights are all there, one after the other."""
    end, last = 0, None
    for tensor in header.tensors.values():
        if tensor.offset != end:
            raise ModelError(
                f"{path} is damaged: the tensor {quoted(tensor.name)} begins at byte "
                f"{tensor.offset} of the data, and not at {end}"
            )
        end, last = tensor.offset + padded(tensor.size, header.alignment), tensor
    if last is None:
        return
    if header.data_offset % _MMAP_ALIGNMENT:
        raise ModelError(
            f"{path} is damaged: its weights begin at byte {header.data_offset}, which is no "
            f"multiple of {_MMAP_ALIGNMENT}"
        )
    wanted = header.data_offset + last.offset + last.size
    if header.file_size < wanted:
        raise ModelError(
            f"{path} is incomplete: it has {header.file_size} of {wanted} bytes; fetch it again"
        )


def _check_parts(path: Path, header: GGUFHeader) -> None:
    """Check that the other files of a model in several are there, and belong to it."""
    count = header.integer("split.count") or 1
    if count == 1:
        return
    names = part_names(path.name)
    if len(names) != count or path.name != names[0] or path.suffix != ".gguf":
        raise ModelError(
            f"{path} is part {(header.integer('split.no') or 0) + 1} of {count}: name the first, "
            f"which must end in -00001-of-{count:05}.gguf"
        )
    if count > _MAX_PARTS:
        raise ModelError(f"{path} claims to have {count} parts")
    tensors = dict(header.tensors)
    for index, part in enumerate(map(path.with_name, names[1:]), 1):
        try:
            part_header = read_header(part)
        except ModelNotFoundError as error:
            raise ModelNotFoundError(
                f"{path} is incomplete: its part {part.name} is missing"
            ) from error
        _check_data(part, part_header)
        _check_part_number(part, part_header, index)
        for problem in _tensor_problems(part_header):
            raise ModelError(f"cannot use {part}: {problem}")
        for name in tensors.keys() & part_header.tensors.keys():
            raise ModelError(f"{part} is damaged: another part has the tensor {quoted(name)} too")
        tensors.update(part_header.tensors)
    total = header.integer("split.tensors.count")
    if total is not None and total != len(tensors):
        raise ModelError(f"{path} is incomplete: its parts have {len(tensors)} of {total} tensors")


def _check_part_number(path: Path, header: GGUFHeader, number: int) -> None:
    # llama.cpp asserts the type, in all parts but the first.
    is_u16 = header.value_types.get("split.no") == UINT16
    if not is_u16 or header.metadata["split.no"] != number:
        raise ModelError(f"{path} is damaged: it does not say that it is part {number + 1}")


def _problems(header: GGUFHeader) -> Iterator[str]:
    """Tell why llama.cpp cannot use a file, the worst first."""
    architecture = header.metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        yield "it does not say which architecture it has (general.architecture)"
        return
    if not header.tensors:
        yield "it has no weights"
    yield from _layer_problems(header, architecture)
    yield from _expert_problems(header, architecture)
    yield from _attention_problems(header, architecture)
    yield from _tensor_problems(header)
    yield from _vocabulary_problems(header)


def _layer_problems(header: GGUFHeader, architecture: str) -> Iterator[str]:
    layers = header.integer(f"{architecture}.block_count")
    if layers is None:
        yield f"it does not say how many layers it has ({architecture}.block_count)"
    elif not 0 < layers <= _MAX_LAYERS:
        yield f"it claims to have {layers} layers"
    elif (header.integer(f"{architecture}.nextn_predict_layers") or 0) > layers:
        yield f"it claims that more than its {layers} layers predict further tokens"
    for name in _EPSILONS:
        epsilon = header.metadata.get(f"{architecture}.attention.{name}")
        if isinstance(epsilon, float) and not 0 <= epsilon < math.inf:
            yield f"{architecture}.attention.{name} is {epsilon}"


def _expert_problems(header: GGUFHeader, architecture: str) -> Iterator[str]:
    def number(name: str) -> int:
        return max(_integers(header, f"{architecture}.expert_{name}"), default=0)

    count, used, groups = number("count"), number("used_count"), number("group_count")
    if not 0 <= count <= _MAX_EXPERTS:
        yield f"it claims to have {count} experts"
    if not min(count, 1) <= used <= count:
        yield f"it claims to use {used} of {count} experts"
    if groups >= max(count, 1):
        yield f"it claims to have {count} experts in {groups} groups"
    if groups > 1 and (count % groups or not 0 < number("group_used_count") < groups):
        yield f"it cannot use {number('group_used_count')} of {groups} groups of {count} experts"


def _attention_problems(header: GGUFHeader, architecture: str) -> Iterator[str]:
    scaling = header.metadata.get(f"{architecture}.rope.scaling.type", "none")
    if isinstance(scaling, str) and scaling not in _ROPE_SCALINGS:
        yield f"it wants the unknown rope scaling {quoted(scaling)}"
    width = header.integer(f"{architecture}.embedding_length") or 0
    heads = max(_integers(header, f"{architecture}.attention.head_count"), default=0)
    if not heads:
        return
    keys = header.integer(f"{architecture}.attention.key_length", width // heads)
    values = header.integer(f"{architecture}.attention.value_length", width // heads)
    rotated = header.integer(
        f"{architecture}.rope.dimension_count", keys if architecture in _ROTATING_ENCODERS else None
    )
    if keys is None or values is None:  # of a wrong type, as llama.cpp will say
        return
    if rotated is not None and (not 0 < rotated <= keys or rotated % 2):
        yield f"it wants {rotated} of the {keys} numbers of a head to be rotated"
    if keys != values and architecture in _EQUAL_HEADS:
        yield f"it claims to have keys of {keys} numbers, and values of {values}"
    pattern = header.metadata.get(f"{architecture}.attention.sliding_window_pattern")
    window = header.integer(f"{architecture}.attention.sliding_window")
    unused = isinstance(pattern, Array) and pattern.values is not None and not any(pattern.values)
    if window and unused:
        yield "it has a sliding window, and no layer that uses it"


def _tensor_problems(header: GGUFHeader) -> Iterator[str]:
    for tensor in header.tensors.values():
        if not _is_usable(tensor):
            yield f"the tensor {quoted(tensor.name)} must not be written as {tensor.type.name}"


def _is_usable(tensor: Tensor) -> bool:
    if tensor.name.endswith(_ONLY_FLOAT32):
        return tensor.type.name == "F32"
    if len(tensor.shape) == 1 and tensor.type.name not in _FOR_VECTORS:
        return False
    if tensor.type.name in _INDICES:
        return not tensor.name.endswith((".weight", ".bias"))
    return tensor.type.name not in _NOT_FOR_WEIGHTS


def _vocabulary_problems(header: GGUFHeader) -> Iterator[str]:
    tokens = header.metadata.get(VOCABULARY)
    if not isinstance(tokens, Array) or tokens.type != STRING:
        return  # a model without a vocabulary, or llama.cpp will say so
    for name in ("scores", "token_type"):
        values = header.metadata.get(f"tokenizer.ggml.{name}")
        if isinstance(values, Array) and values.length < tokens.length:
            yield f"it has {tokens.length} tokens, and tokenizer.ggml.{name} for {values.length}"
    for name in ("bos", "eos", "eot", "eom"):
        token = header.integer(f"tokenizer.ggml.{name}_token_id")
        if token is not None and token >= tokens.length and token != _NO_TOKEN:
            yield f"tokenizer.ggml.{name}_token_id is {token}, and there are {tokens.length} tokens"
    model = header.metadata.get("tokenizer.ggml.model")
    if model == "bert" and "bert" not in str(header.metadata.get("general.architecture")):
        yield "it compares texts and does not continue them; choose a model for chat"
    if tokens.strings is not None:
        yield from _token_problems(tokens.strings, spells_bytes=model == "llama")


def _token_problems(tokens: Sequence[bytes], *, spells_bytes: bool) -> Iterator[str]:
    distinct = set(tokens)
    num_empty = tokens.count(b"") if b"" in distinct else 1  # llama.cpp gives each a name
    if len(distinct) + num_empty - 1 < len(tokens):
        twice = next(a for a, b in itertools.pairwise(sorted(tokens)) if a and a == b)
        yield f"it has the token {quoted(twice.decode('utf-8', 'replace'))} twice"
    if b"\n".join(tokens).decode("utf-8", "replace").count("\ufffd") > _MAX_INVALID_CHARACTERS:
        yield "its vocabulary is no text"
    if spells_bytes:  # as SentencePiece does with what it does not know; llama.cpp trusts it can
        for byte in range(256):
            if b"<0x%02X>" % byte not in distinct and bytes([byte]) not in distinct:
                yield f"its vocabulary has no token for the byte 0x{byte:02X}"


def _integers(header: GGUFHeader, key: str) -> list[int]:
    """Return a number, or those of an array, such as one for each layer."""
    value = header.metadata.get(key)
    values = (value.values or ()) if isinstance(value, Array) else (value,)
    return [value for value in values if isinstance(value, int)]

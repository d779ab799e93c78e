"""What the models of a server need, and when they are unloaded; none is loaded here."""

import math
from pathlib import Path
from typing import Any

import pytest

from llmstream_cli.api import EngineConfig
from llmstream_cli.cli.serve import models as models_module
from llmstream_cli.cli.serve.models import serve_models
from llmstream_cli.cli.serve.options import ServeOptions
from llmstream_cli.engines.pool import EnginePool
from llmstream_cli.engines.pooled_engine import PooledEngine
from llmstream_cli.errors import InvalidValueError
from llmstream_cli.machine import Memory
from llmstream_cli.models.resolve import ModelChoice, ResolvedModel, resolve
from llmstream_cli.prompts.formats import ChatFormat
from llmstream_cli.server.served import ServedModels
from tests.gguf_files import CHATML_TEMPLATE, THINKING_TEMPLATE, write_llama


@pytest.fixture
def found(tmp_path: Path) -> list[ResolvedModel]:
    """Two models, which were trained with a context of 256 tokens."""
    paths = [write_llama(tmp_path / f"{name}.gguf") for name in ("first", "second")]
    return [resolve(ModelChoice(model=str(path))) for path in paths]


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the pool is told of each model."""
    calls: list[dict[str, Any]] = []

    class Noted(PooledEngine):
        def __init__(self, pool: EnginePool, name: str, factory: Any, **limits: Any) -> None:
            calls.append({"name": name, "config": factory.args[0], **limits})
            super().__init__(pool, name, factory, **limits)

    monkeypatch.setattr(models_module, "PooledEngine", Noted)
    return calls


def served(
    found: list[ResolvedModel],
    *,
    max_bytes: int | None = None,
    keep_alive: float | None = None,
    **config: Any,
) -> ServedModels:
    return serve_models(
        found,
        lambda one: EngineConfig(model_path=str(one.path), **config),
        ServeOptions(),
        max_bytes=max_bytes,
        keep_alive=keep_alive,
    )


def test_the_first_stays_and_others_are_unloaded_unless_the_user_says_otherwise(
    found: list[ResolvedModel], added: list[dict[str, Any]]
) -> None:
    assert served(found).default.names == ("first",)
    assert [one["keep_alive"] for one in added] == [math.inf, 300]
    served(found, keep_alive=0)
    assert [one["keep_alive"] for one in added[2:]] == [0, 0]


def test_a_context_is_cut_to_what_each_of_several_was_trained_with(
    found: list[ResolvedModel], added: list[dict[str, Any]]
) -> None:
    served(found, ctx_size=1000)
    served(found, ctx_size=100)
    served(found[:1], ctx_size=1000)  # which the engine refuses
    assert [one["config"].ctx_size for one in added] == [256, 256, 100, 100, 1000]


def test_memory_is_what_is_available_but_for_a_tenth(
    found: list[ResolvedModel], added: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models_module, "memory", lambda: Memory(10_000_000_000, 6_000_000_000))
    served(found, max_seqs=2, max_queue=3)
    assert [one["config"].max_bytes for one in added] == [5_000_000_000] * 2
    assert [one["max_requests"] for one in added] == [5, 5]
    monkeypatch.setattr(models_module, "memory", lambda: Memory(10_000_000_000, 1))
    served(found)
    needed = added[2]["needed_bytes"]
    assert added[2]["config"].max_bytes == needed  # the first has to have room
    served(found, max_seqs=8)
    assert added[4]["needed_bytes"] > needed


def test_a_model_without_room_is_warned_of(
    found: list[ResolvedModel], capsys: pytest.CaptureFixture[str]
) -> None:
    served(found, max_bytes=1000)
    announced, warning = capsys.readouterr().err.splitlines()
    assert announced.startswith("loaded on request: second; all models together take 1")
    assert warning.startswith("warning: second needs ")
    served(found[:1], max_bytes=1000)
    assert capsys.readouterr().err == ""


def test_a_model_is_described_before_it_is_loaded(found: list[ResolvedModel]) -> None:
    describe = served(found).models[1].describe
    assert describe is not None
    info = describe()
    assert (info.name, info.ctx_size, info.ctx_train) == ("second", 256, 256)
    assert info.description.startswith("llama")


def test_two_models_of_the_same_name_are_an_error(found: list[ResolvedModel]) -> None:
    with pytest.raises(InvalidValueError, match="two models are called first"):
        served([found[0], found[0]])


def test_whether_an_unloaded_model_thinks_is_read_off_its_template(tmp_path: Path) -> None:
    plain, thinking = (ChatFormat("a", CHATML_TEMPLATE), ChatFormat("b", "</think>"))
    cases: list[tuple[str | None, dict[str, Any], bool]] = [
        (THINKING_TEMPLATE, {}, True),
        (CHATML_TEMPLATE, {"default_chat_format": thinking}, False),
        (CHATML_TEMPLATE, {"chat_format": thinking}, True),
        (THINKING_TEMPLATE, {"chat_format": plain}, False),
        (None, {"default_chat_format": thinking}, True),
        (None, {}, False),
    ]
    for template, config, thinks in cases:
        path = write_llama(tmp_path / "a.gguf", template=template)
        describe = served([resolve(ModelChoice(model=str(path)))], **config).default.describe
        assert describe is not None
        assert describe().thinks is thinks, (template, config)

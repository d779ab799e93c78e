"""Routes over models that load on demand: what they say, when they load, and how that fails."""

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llmstream_cli.api import EngineMetrics, EngineState, EngineStatus, ModelInfo
from llmstream_cli.engines.pool import EnginePool
from llmstream_cli.engines.pooled_engine import PooledEngine
from llmstream_cli.errors import InvalidValueError, ModelError
from llmstream_cli.server.app import create_app
from llmstream_cli.server.context import ServerContext
from llmstream_cli.server.http.listener import Listener
from llmstream_cli.server.served import ServedModel, ServedModels
from llmstream_cli.server.settings import ServerSettings
from tests.server.fakes import (
    TIMEOUT,
    FakeEngine,
    Reply,
    Served,
    ask,
    connect,
    head,
    post,
    until,
)
from tests.server.scripted import INFO

SIZE = 1000


@dataclass
class LoadingEngine(FakeEngine):
    """Loads when it is told to."""

    loaded: asyncio.Event = field(default_factory=asyncio.Event)
    load_error: ModelError | None = None
    metrics: EngineMetrics = EngineMetrics(slots=4, rss_bytes=SIZE)  # noqa: RUF009

    async def ready(self) -> ModelInfo:
        await self.loaded.wait()
        if self.load_error is not None:
            raise self.load_error
        self.status = EngineStatus(EngineState.READY)
        return INFO


@dataclass
class Models:
    """Models a and b behind a server, with memory for one of them, or for more.

    Attributes:
        engines: all that were made, by the names of their models.
        members: the models' engines.
        automatic: they load without being told.
    """

    room: int = 1
    automatic: bool = True
    engines: dict[str, list[LoadingEngine]] = field(default_factory=dict)
    members: dict[str, PooledEngine] = field(default_factory=dict)

    def served(self) -> ServedModels:
        pool = EnginePool(self.room * SIZE)
        for name in "ab":
            self.engines[name] = []
            self.members[name] = PooledEngine(
                pool, name, self._factory(name), needed_bytes=SIZE, keep_alive=300.0, max_requests=3
            )
        describe: dict[str, Callable[[], ModelInfo]] = {"a": lambda: replace(INFO, ctx_size=77)}
        return ServedModels(
            [
                ServedModel(
                    (name,), member, 0, residency=member, size_bytes=5, describe=describe.get(name)
                )
                for name, member in self.members.items()
            ]
        )

    def _factory(self, name: str) -> Callable[[], LoadingEngine]:
        def make() -> LoadingEngine:
            engine = LoadingEngine((f"I am {name}",))
            if self.automatic:
                engine.loaded.set()
            self.engines[name].append(engine)
            return engine

        return make

    def last(self, name: str) -> LoadingEngine:
        return self.engines[name][-1]

    def state(self, name: str) -> EngineState:
        return self.members[name].status.state


@contextlib.asynccontextmanager
async def serving(models: Models, **settings: Any) -> AsyncGenerator[Served]:
    context = ServerContext(models.served(), ServerSettings(port=0, **settings))
    app = create_app(context)
    listener = Listener(app, context.settings)
    await listener.start()
    try:
        yield Served(FakeEngine(), app, context, listener)
    finally:
        await listener.stop_accepting()
        listener.abort()
        assert await listener.wait_closed(TIMEOUT)
        for member in models.members.values():
            await member.aclose()
            assert member.leases == 0


async def send(served: Served, path: str, **fields: Any) -> Reply:
    return await ask(served, post(json.dumps(fields).encode(), path=path))


async def get(served: Served, path: str) -> Any:
    return json.loads((await ask(served, head("GET", path))).body)


async def question(served: Served, model: str, **fields: Any) -> Reply:
    return await send(served, "/token_stream", query="?", model=model, **fields)


# ---- choosing -------------------------------------------------------------------------------


async def test_the_model_of_the_request_loads_and_answers() -> None:
    models = Models()
    async with serving(models) as served:
        for name in ("a", "b", "A", "b:latest", "a"):
            reply = await question(served, name)
            assert reply.body == f"I am {name[0].lower()}".encode()
            assert reply.headers["x-model"] == name[0].lower()
        reply = await send(served, "/token_stream", query="?")
        assert reply.headers["x-model"] == "a"  # the first is the default
        missing = await question(served, "c")
    assert missing.status == 404
    assert json.loads(missing.body)["error"]["message"] == "no model is called 'c'; served: a, b"
    assert {name: len(engines) for name, engines in models.engines.items()} == {"a": 3, "b": 2}


def test_no_two_models_have_the_same_name() -> None:
    model = ServedModel(("Tiny", "file"), FakeEngine(), 0)
    with pytest.raises(InvalidValueError, match="two models are called tiny"):
        ServedModels([model, replace(model, names=("tiny",))])


def test_a_name_is_rather_the_models_whose_first_it_is() -> None:
    first = ServedModel(("small", "shared"), FakeEngine(), 0)
    second = ServedModel(("shared", "small"), FakeEngine(), 0)
    third = ServedModel(("other", "small"), FakeEngine(), 0)
    models = ServedModels([first, second, third])
    assert [models.find(name) for name in ("small", "shared", "other")] == [first, second, third]


async def test_the_lists_have_all_models_and_ps_the_loaded_ones() -> None:
    models = Models()
    async with serving(models) as served:
        listed = await get(served, "/v1/models")
        assert [model["id"] for model in listed["data"]] == ["a", "b"]
        assert (await get(served, "/v1/models/b"))["id"] == "b"
        tags = (await get(served, "/api/tags"))["models"]
        assert [(tag["name"], tag["size"]) for tag in tags] == [("a:latest", 5), ("b:latest", 5)]
        assert [tag["details"]["family"] for tag in tags] == ["llama", ""]  # one tells of itself
        assert await get(served, "/api/ps") == {"models": []}
        await question(served, "b")
        (process,) = (await get(served, "/api/ps"))["models"]
    assert (process["name"], process["size"]) == ("b:latest", SIZE)
    rest = datetime.fromisoformat(process["expires_at"]) - datetime.now(UTC)
    assert timedelta(seconds=290 - TIMEOUT) < rest <= timedelta(seconds=300)


async def test_show_loads_no_model() -> None:
    models = Models()
    async with serving(models) as served:
        shown = await send(served, "/api/show", model="a")
        assert (shown.status, "num_ctx 77" in json.loads(shown.body)["parameters"]) == (200, True)
        unknown = await send(served, "/api/show", model="b")
        assert unknown.status == 503
        assert "a request loads it" in json.loads(unknown.body)["error"]
        assert models.engines == {"a": [], "b": []}
        await question(served, "a")
        loaded = json.loads((await send(served, "/api/show", model="a")).body)
    assert "num_ctx 2048" in loaded["parameters"]


async def test_ready_is_the_default_and_names_all_states() -> None:
    models = Models(automatic=False)
    async with serving(models) as served:
        ready = await ask(served, head("GET", "/ready"))
        assert ready.status == 200
        assert json.loads(ready.body)["models"] == {"a": "idle", "b": "idle"}
        models.members["a"].start()
        loading = await ask(served, head("GET", "/ready"))
        assert (loading.status, json.loads(loading.body)["status"]) == (503, "loading")
        refused = await question(served, "a")
        assert refused.status == 503
        assert "being loaded; try again" in json.loads(refused.body)["error"]["message"]
        models.last("a").loaded.set()
        await until(lambda: models.state("a") is EngineState.READY)
        assert (await get(served, "/ready"))["models"] == {"a": "ready", "b": "idle"}
        models.members["a"].unload()
        await until(lambda: models.state("a") is EngineState.IDLE)
        asked = asyncio.create_task(question(served, "a"))
        await until(lambda: models.state("a") is EngineState.LOADING)
        again = await ask(served, head("GET", "/ready"))
        assert (again.status, json.loads(again.body)["models"]["a"]) == (200, "loading")
        models.last("a").loaded.set()
        assert (await asked).status == 200


# ---- loading for a request ------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/token_stream", "/v1/chat/completions"])
async def test_a_request_waits_for_its_model(path: str) -> None:
    models = Models(automatic=False)
    async with serving(models, heartbeat_seconds=0.05) as served:
        fields: dict[str, Any] = {"messages": [{"role": "user", "content": "?"}], "stream": True}
        if path == "/token_stream":
            fields = {"query": "?"}
        asked = asyncio.create_task(send(served, path, model="b", **fields))
        await until(lambda: models.engines["b"])
        assert models.state("b") is EngineState.LOADING
        await asyncio.sleep(0.3)
        models.last("b").loaded.set()
        reply = await asked
    assert reply.status == 200
    assert b"I am b" in reply.body
    assert (b": ping" in reply.body) == (path != "/token_stream")


async def test_a_model_that_cannot_be_loaded_fails_its_requests_alone() -> None:
    models = Models(automatic=False, room=2)
    async with serving(models) as served:
        asked = asyncio.create_task(question(served, "b"))
        await until(lambda: models.engines["b"])
        models.last("b").load_error = ModelError("b.gguf is damaged")
        models.last("b").loaded.set()
        reply = await asked
        assert reply.status == 500
        assert json.loads(reply.body)["error"]["message"] == "b.gguf is damaged"
        assert (await question(served, "b")).status == 500
        assert len(models.engines["b"]) == 1  # it is not tried again at once
        ready = await get(served, "/ready")
        assert (ready["status"], ready["models"]["b"]) == ("ready", "failed")
        models.automatic = True
        assert (await question(served, "a")).body == b"I am a"


async def test_an_error_after_a_heartbeat_is_told_in_the_stream() -> None:
    models = Models(automatic=False)
    async with serving(models, heartbeat_seconds=0.02) as served:
        fields = {"messages": [{"role": "user", "content": "?"}], "stream": True}
        asked = asyncio.create_task(send(served, "/v1/chat/completions", model="b", **fields))
        await until(lambda: models.engines["b"])
        await asyncio.sleep(0.2)
        models.last("b").load_error = ModelError("b.gguf is damaged")
        models.last("b").loaded.set()
        reply = await asked
    assert reply.status == 200
    assert b": ping" in reply.body
    assert b"b.gguf is damaged" in reply.body


async def test_a_client_that_leaves_while_its_model_loads_ends_the_load() -> None:
    models = Models(automatic=False)
    async with serving(models) as served:
        _, writer = await connect(served)
        writer.write(post(b'{"query": "?", "model": "b"}'))
        await until(lambda: models.engines["b"])
        writer.close()
        await until(lambda: models.last("b").closed)
        await until(lambda: models.state("b") is EngineState.IDLE)


async def test_a_load_that_takes_too_long_is_a_504() -> None:
    models = Models(automatic=False)
    async with serving(models, timeout_seconds=1.0) as served:
        for path, fields in (
            ("/token_stream", {"query": "?"}),
            ("/api/generate", {}),
        ):
            assert (await send(served, path, model="b", **fields)).status == 504
            await until(lambda: models.state("b") is EngineState.IDLE)


async def test_one_request_too_many_for_a_model_that_loads_is_a_429() -> None:
    models = Models(automatic=False)
    async with serving(models) as served:
        asked = [asyncio.create_task(question(served, "b")) for _ in range(3)]
        await until(lambda: models.members["b"].metrics.waiting == 3)
        late = await question(served, "b")
        assert late.status == 429
        models.last("b").loaded.set()
        assert [(await one).body for one in asked] == [b"I am b"] * 3


async def test_a_model_that_can_never_fit_is_a_507_with_both_numbers() -> None:
    models = Models(room=0)
    async with serving(models) as served:
        reply = await question(served, "b")
        assert reply.status == 507
        assert "retry-after" not in reply.headers
        error = json.loads(reply.body)["error"]
        assert (error["code"], error["message"].count(" GB")) == ("no_room", 2)


# ---- Ollama's keep_alive --------------------------------------------------------------------


CHAT = {"messages": [{"role": "user", "content": "?"}], "stream": False}


async def expires_seconds(served: Served, models: Models, keep_alive: object) -> float:
    reply = await send(served, "/api/chat", model="a", keep_alive=keep_alive, **CHAT)
    assert reply.status == 200, reply.body
    return models.members["a"].expires_seconds


async def test_keep_alive_of_a_request() -> None:
    models = Models()
    async with serving(models) as served:
        for given, expected in ((None, 300), ("10m", 600), (7200, 7200), (None, 300)):
            found = await expires_seconds(served, models, given)
            assert expected - TIMEOUT < found <= expected
        assert await expires_seconds(served, models, -1) == math.inf
        (process,) = (await get(served, "/api/ps"))["models"]
        assert process["expires_at"].startswith("9999-")
        await send(served, "/api/chat", model="a", keep_alive=0, **CHAT)
        await until(lambda: models.last("a").closed)
        assert await get(served, "/api/ps") == {"models": []}


@pytest.mark.parametrize("route", ["/api/chat", "/api/generate"])
async def test_a_request_without_a_prompt_loads_and_unloads(route: str) -> None:
    models = Models()
    async with serving(models) as served:
        for keep_alive, reason, state in (
            (None, "load", EngineState.READY),
            ("1h", "load", EngineState.READY),
            (0, "unload", EngineState.IDLE),
            ("0s", "unload", EngineState.IDLE),
        ):
            reply = await send(served, route, model="a", keep_alive=keep_alive, stream=False)
            assert json.loads(reply.body)["done_reason"] == reason
            await until(lambda state=state: models.state("a") is state)
            if keep_alive == "1h":
                assert models.members["a"].expires_seconds > 3600 - TIMEOUT
        assert not models.last("a").requests


async def test_a_keep_alive_that_is_none_is_a_422() -> None:
    models = Models()
    async with serving(models) as served:
        for fields in (CHAT, {}):
            reply = await send(served, "/api/chat", model="a", keep_alive="soon", **fields)
            assert reply.status == 422
            assert json.loads(reply.body)["error"].startswith("keep_alive is 'soon'")


async def test_the_time_of_loading_is_told_to_who_waited_for_it() -> None:
    models = Models(automatic=False)
    async with serving(models) as served:
        asked = asyncio.create_task(send(served, "/api/chat", model="a", **CHAT))
        await until(lambda: models.engines["a"])
        await asyncio.sleep(0.1)
        models.last("a").loaded.set()
        assert json.loads((await asked).body)["load_duration"] >= 100_000_000
        again = await send(served, "/api/chat", model="a", **CHAT)
    assert json.loads(again.body)["load_duration"] == 0


# ---- metrics --------------------------------------------------------------------------------


async def test_the_metrics_tell_models_apart() -> None:
    models = Models()
    async with serving(models) as served:
        for name in ("a", "b", "b", "a"):
            await question(served, name)
        text = (await ask(served, head("GET", "/metrics"))).body.decode()
    values = {
        (sample.name, sample.labels["model"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "model" in sample.labels
    }
    assert values["llmstream_model_loaded", "a"] == 1
    assert values["llmstream_model_loaded", "b"] == 0
    assert values["llmstream_model_loads_total", "a"] == 2
    assert values["llmstream_model_loads_total", "b"] == 1
    assert values["llmstream_model_unloads_total", "b"] == 1
    assert values["llmstream_model_memory_bytes", "a"] == SIZE
    assert values["llmstream_model_load_seconds_total", "a"] >= 0
    assert values["llmstream_first_token_seconds_count", "b"] == 2
    assert values["llmstream_requests_total", "a"] == 2
    assert values["llmstream_engine_rss_bytes", "b"] == 0

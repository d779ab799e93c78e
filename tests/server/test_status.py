"""What the server tells of itself and of requests: probes, status, metrics, the log."""

import asyncio
import json
import logging
import re
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import llmstream_cli
from llmstream_cli.api import EngineMetrics, EngineState, EngineStatus, SamplingParams
from llmstream_cli.errors import EngineDiedError, QueueFullError
from llmstream_cli.server.dialects.plain import TokenStreamRequest, as_fields
from llmstream_cli.server.http.exchange import JsonFormatter
from tests.server.fakes import (
    BODY,
    FakeEngine,
    Served,
    ask,
    connect,
    fail_with,
    head,
    post,
    serving,
    until,
)

MINE = "X-Request-Id: mine"


async def get(served: Served, path: str) -> Any:
    return json.loads((await ask(served, head("GET", path))).body)


# ---- health, readiness, status --------------------------------------------------------------


@pytest.mark.parametrize("state", [state for state in EngineState if state != "idle"])
async def test_ready_and_status_tell_the_engines_state(state: EngineState) -> None:
    async with serving(FakeEngine(status=EngineStatus(state, "why"))) as served:
        reply = await ask(served, head("GET", "/ready"))
        status = await get(served, "/status")
        assert (await ask(served, head("GET", "/health"))).status == 200
    is_ready = state is EngineState.READY
    assert reply.status == (200 if is_ready else 503)
    reason, ctx_size = ("", 1024) if is_ready else ("why", None)
    assert json.loads(reply.body) == {
        "status": state,
        "reason": reason,
        "models": {"fake": state},
        "ctx_size": ctx_size,
    }
    assert (status["state"], status["reason"]) == (state, reason)
    assert status["models"][0]["ctx_size"] == ctx_size


async def test_a_server_that_drains_is_not_ready_and_takes_nothing() -> None:
    async with serving() as served:
        served.context.draining = True
        ready = await ask(served, head("GET", "/ready"))
        refused = await ask(served, post(BODY))
    assert (ready.status, json.loads(ready.body)["status"]) == (503, "draining")
    assert refused.status == 503
    assert "retry-after" in refused.headers


async def test_the_status_tells_of_models_and_defaults() -> None:
    defaults = SamplingParams(temperature=0.5, stop=("END",), seed=7)
    contexts = {"sql": "You write SQL.", "math": "You prove."}
    engine = FakeEngine(metrics=EngineMetrics(slots=4, running=3, waiting=2))
    async with serving(engine, defaults=defaults, contexts=contexts) as served:
        status = await get(served, "/status")
    (model,) = status["models"]
    sampling = model.pop("sampling")
    told = {"name": "fake", "state": "ready", "reason": "", "ctx_size": 1024}
    assert model == told | {"slots": 4, "running": 3, "waiting": 2}
    assert (sampling["temperature"], sampling["stop"], sampling["seed"]) == (0.5, ["END"], 7)
    assert (status["version"], status["contexts"]) == (llmstream_cli.__version__, ["sql", "math"])


def test_defaults_are_fields_of_a_request_for_them() -> None:
    sampling = SamplingParams(
        top_k=7, logit_bias=((5, -1.5),), json_schema='{"type":"object"}', max_tokens=9
    )
    asked = TokenStreamRequest.model_validate({"query": "?", **as_fields(sampling)})
    assert asked.generation_request(SamplingParams(top_k=1, min_p=0.5), {}).sampling == sampling


# ---- requests -------------------------------------------------------------------------------


async def test_a_request_can_be_watched() -> None:
    engine = FakeEngine(metrics=EngineMetrics(slots=1))
    engine.gate.clear()
    async with serving(engine) as served:
        first = asyncio.create_task(ask(served, post(BODY)))
        await until(lambda: len(engine.requests) == 1)
        second = asyncio.create_task(ask(served, post(BODY, MINE)))
        await until(lambda: len(engine.requests) == 2)
        waiting = await get(served, "/requests/mine")
        engine.gate.set()
        await asyncio.gather(first, second)
        ended = await get(served, "/requests/mine")
    assert (waiting["id"], waiting["state"], waiting["position"]) == ("mine", "queued", 1)
    assert waiting["generated_tokens"] == 0
    assert (ended["state"], ended["finish_reason"], ended["error"]) == ("ended", "stop", None)
    assert (ended["prompt_tokens"], ended["cached_tokens"]) == (7, 3)
    assert ended["generated_tokens"] == 3
    assert ended["seconds"] >= ended["first_token_seconds"] > 0


@pytest.mark.parametrize(
    ("engine", "settings", "status", "error"),
    [
        (fail_with(EngineDiedError("it died")), {}, 500, "it died"),
        (fail_with(EngineDiedError("it died"), "one"), {}, 200, "it died"),
        (fail_with(QueueFullError("full")), {}, 429, "full"),
        (
            FakeEngine(pause=60),
            {"timeout_seconds": 0.1},
            504,
            "the answer took longer than 0.1 seconds",
        ),
    ],
)
async def test_a_request_that_failed_says_why(
    engine: FakeEngine, settings: dict[str, Any], status: int, error: str
) -> None:
    async with serving(engine, **settings) as served:
        reply = await ask(served, post(BODY, MINE))
        told = await get(served, "/requests/mine")
    assert reply.status == (503 if status == 500 else status)
    assert (told["state"], told["finish_reason"], told["error"]) == ("ended", None, error)


async def test_a_client_that_left_has_cancelled_its_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "llmstream_cli.access")
    engine = FakeEngine()
    engine.gate.clear()
    async with serving(engine) as served:
        _, writer = await connect(served)
        writer.write(post(BODY, MINE))
        await until(lambda: engine.requests)
        writer.close()
        await until(lambda: "499 left" in caplog.text)
        told = await get(served, "/requests/mine")
    assert (told["state"], told["finish_reason"]) == ("ended", "cancelled")


async def test_a_request_that_never_generated_is_not_known() -> None:
    async with serving() as served:
        await ask(served, post(b"{}", MINE))
        reply = await ask(served, head("GET", "/requests/mine"))
    assert reply.status == 404
    assert b"no request 'mine' is known" in reply.body


# ---- metrics --------------------------------------------------------------------------------


async def test_the_metrics_count_requests_and_ask_the_engine() -> None:
    engine = FakeEngine(metrics=EngineMetrics(slots=4, running=2, generated_tokens=99, restarts=1))
    async with serving(engine) as served:
        asked = [post(BODY), post(b"{}"), head("GET", "/random-1"), head("GET", "/random-2")]
        for data in asked:
            await ask(served, data)
        reply = await ask(served, head("GET", "/metrics"))
    values = {
        (sample.name.removeprefix("llmstream_"), *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(reply.body.decode())
        for sample in family.samples
    }
    expected = {
        ("requests_total", "/token_stream", "200", "complete", "fake"): 1,
        ("requests_total", "", "/token_stream", "422", "complete"): 1,
        ("requests_total", "", "404", "complete", "unmatched"): 2,
        ("first_token_seconds_count", "fake"): 1,
        ("token_gap_seconds_count", "fake"): 2,
        ("engine_running", "fake"): 2,
        ("engine_generated_tokens_total", "fake"): 99,
        ("engine_restarts_total", "fake"): 1,
        ("model_loaded", "fake"): 1,
    }
    assert {name: values[name] for name in expected} == expected


# ---- the log --------------------------------------------------------------------------------


async def log_record(
    data: bytes, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> logging.LogRecord:
    caplog.set_level(logging.INFO, "llmstream_cli.access")
    async with serving(engine) as served:
        await ask(served, data)
    (record,) = [record for record in caplog.records if record.name.endswith("access")]
    return record


async def test_a_request_has_one_line_with_its_tokens(caplog: pytest.LogCaptureFixture) -> None:
    record = await log_record(post(BODY, "X-Request-Id: my-id"), FakeEngine(), caplog)
    pattern = r"POST /token_stream 200 complete \d+\.\d{3}s 7\+3 tokens fake 127\.0\.0\.1 my-id"
    assert re.fullmatch(pattern, record.getMessage())
    line = json.loads(JsonFormatter().format(record))
    expected = {"method": "POST", "path": "/token_stream", "status": 200, "ended": "complete",
                "prompt_tokens": 7, "generated_tokens": 3, "request_id": "my-id"}  # fmt: skip
    assert line.items() >= expected.items()
    assert line["seconds"] > 0


@pytest.mark.parametrize(
    ("data", "engine", "line"),
    [
        (post(BODY), fail_with(EngineDiedError("x"), "one"), "POST /token_stream 200 cut "),
        (head("GET", "/%0aGET%20/%1b[2J"), FakeEngine(), "GET /%0aGET%20/%1b[2J 404 complete"),
    ],
)
async def test_a_line_says_how_it_ended_and_none_can_be_forged(
    data: bytes, engine: FakeEngine, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await log_record(data, engine, caplog)).getMessage().startswith(line)


def test_json_lines_hold_tracebacks() -> None:
    try:
        raise RuntimeError("a\nbug")
    except RuntimeError as error:
        exc_info = (RuntimeError, error, error.__traceback__)
    record = logging.LogRecord("x", logging.ERROR, "", 0, "failed: %s", ("why",), exc_info)
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert "a\nbug" in json.loads(line)["traceback"]
    assert json.loads(line)["message"] == "failed: why"


async def test_an_indecent_request_id_is_replaced() -> None:
    async with serving() as served:
        for given in ("", "x" * 65, "a b", "a\tb", "<script>"):
            reply = await ask(served, head("GET", "/health", f"X-Request-Id: {given}"))
            assert re.fullmatch("[0-9a-f]{32}", reply.headers["x-request-id"])

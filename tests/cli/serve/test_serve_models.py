"""`llmstream serve` with several models: real processes, real models, real clients."""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import ollama
import openai
import pytest

from tests.candle_files import write_model, write_tokenizer
from tests.cli.serve.test_serve import PARIS, TIMEOUT, Running, ask, body, running, streaming
from tests.gguf_files import write_gemma3, write_lfm2, write_llama

pytestmark = pytest.mark.slow

# Each takes 0.2 GB for the program, and next to nothing beside; SmolLM2 takes 0.4 GB in all.
SMALL = ("--ctx-size", "256", "--parallel", "2")
ROOM_FOR_ONE = ("--memory", "450M")


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_llama(folder / "tiny-llama.gguf")
    write_gemma3(folder / "tiny-gemma.gguf")
    write_lfm2(folder / "tiny-lfm.gguf")
    return folder


@pytest.fixture(scope="session")
def server(files: Path) -> Iterator[Running]:
    """Three models that all have room."""
    arguments = ("-m", str(files / "tiny-llama.gguf"), "-f", "smollm2")
    with running(*arguments, "--model", str(files / "tiny-lfm.gguf"), *SMALL) as server:
        server.wait_until_ready()
        yield server


def engines(server: Running) -> list[int]:
    """The processes of the engines that have not ended."""
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if is_running(int(child))]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def loaded(server: Running) -> list[str]:
    models = httpx2.get(f"{server.url}/api/ps").json()["models"]
    return [model["name"].removesuffix(":latest") for model in models]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# ---- choosing -------------------------------------------------------------------------------


def test_the_models_come_in_the_order_of_the_command_line(server: Running) -> None:
    listed = httpx2.get(f"{server.url}/v1/models").json()["data"]
    assert [model["id"] for model in listed] == ["tiny-llama", "smollm2", "tiny-lfm"]
    server.wait_for("curl --no-buffer")
    lines = [line.rstrip("\n") for line in server.log if " INFO " not in line]
    assert lines[0].startswith("loaded on request: smollm2, tiny-lfm; all models together take ")
    assert f"serving tiny-llama at {server.url}\n" in server.log
    assert '-d \'{"query": "Where is Paris?", "model": "tiny-llama"}\'' in lines[-1]


def test_every_client_chooses_by_name(server: Running) -> None:
    assert ask(server.url, "Where is Paris?", model="smollm2", max_tokens=17) == PARIS
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        completion = client.chat.completions.create(
            model="smollm2",
            messages=[{"role": "user", "content": "Where is Paris?"}],
            temperature=0,
            max_tokens=17,
        )
        assert completion.choices[0].message.content == PARIS
        assert {model.id for model in client.models.list()} == {"tiny-llama", "smollm2", "tiny-lfm"}
        assert client.models.retrieve("tiny-lfm").id == "tiny-lfm"
        with pytest.raises(openai.NotFoundError, match="served: tiny-llama, smollm2, tiny-lfm"):
            client.completions.create(model="llama9", prompt="?")
    with ollama.Client(server.url) as client_:
        options = {"temperature": 0, "num_predict": 17}
        messages = [{"role": "user", "content": "Where is Paris?"}]
        answer = client_.chat("smollm2:latest", messages, options=options)
        assert answer.message.content == PARIS
        assert {model.model for model in client_.list().models} >= {"tiny-llama:latest"}
        tiny = client_.generate("tiny-lfm", "the of", options=options).response
    assert tiny not in {"", PARIS}
    default = ask(server.url, "the of")
    assert default == ask(server.url, "the of", model="tiny-llama")
    assert set(loaded(server)) == {"tiny-llama", "smollm2", "tiny-lfm"}
    assert len(engines(server)) == 3


def test_a_tokenizer_can_be_named_for_weights_without_one(own_caches: Path) -> None:
    weights, tokenizer = own_caches / "weights.gguf", own_caches / "vocabulary.json"
    write_model(weights)
    write_tokenizer(tokenizer)
    named = ("-m", str(weights), "--tokenizer", str(tokenizer), "--template", "vicuna")
    with running(*named, *SMALL) as server:
        server.wait_until_ready()
        ask(server.url, "hi", max_tokens=2)


# ---- memory and time ------------------------------------------------------------------------


def test_an_unused_model_is_unloaded_and_its_process_gone(files: Path) -> None:
    arguments = ("-m", str(files / "tiny-llama.gguf"), "-m", str(files / "tiny-lfm.gguf"))
    with running(*arguments, *SMALL) as server:
        server.wait_until_ready()
        (default,) = engines(server)
        with ollama.Client(server.url) as client:
            client.generate("tiny-lfm", "the of", options={"num_predict": 4}, keep_alive="1s")
            assert len(engines(server)) == 2
            assert loaded(server) == ["tiny-llama", "tiny-lfm"]
            wait_until(lambda: loaded(server) == ["tiny-llama"])
            wait_until(lambda: engines(server) == [default])  # which stays
            assert client.generate("tiny-llama", keep_alive=0).done_reason == "unload"
        wait_until(lambda: not engines(server))
        assert httpx2.get(f"{server.url}/ready").status_code == 200
        assert ask(server.url, "the of")
        assert any("unloading tiny-lfm: nobody has asked for 1 seconds" in x for x in server.log)


def test_many_requests_to_three_models_where_one_has_room(files: Path) -> None:
    """In turn, without a lost request, and each answer is what the model says alone."""
    arguments = [f"--model={files / name}.gguf" for name in ("tiny-llama", "tiny-gemma")]
    with running(*arguments, "-f", "smollm2", *SMALL, *ROOM_FOR_ONE) as server:
        server.wait_until_ready()
        names = ("tiny-llama", "smollm2", "tiny-gemma")
        alone = {name: ask(server.url, "the of", model=name, max_tokens=8) for name in names}
        assert len(set(alone.values())) == 3

        def answer(name: str) -> str:
            return ask(server.url, "the of", model=name, max_tokens=8)

        asked = names * 4
        with ThreadPoolExecutor(len(asked)) as pool:
            answers = [pool.submit(answer, name) for name in asked]
            while not all(one.done() for one in answers):
                with contextlib.suppress(OSError):  # one that ended between two looks
                    assert len(engines(server)) <= 2  # and one that leaves, at most
                time.sleep(0.02)
        assert [one.result() for one in answers] == [alone[name] for name in asked]
        metrics = httpx2.get(f"{server.url}/metrics").text
        assert 'llmstream_model_unloads_total{model="tiny-llama"}' in metrics
        assert any("needs its memory" in line for line in server.log)


# ---- failures -------------------------------------------------------------------------------


def test_the_death_of_one_engine_does_not_touch_the_stream_of_another(server: Running) -> None:
    whole = ask(server.url, "the of", model="smollm2", max_tokens=150, ignore_eos=True)
    before = set(engines(server))
    with ollama.Client(server.url) as client:
        client.generate("tiny-lfm", keep_alive=0)
        wait_until(lambda: "tiny-lfm" not in loaded(server))
        wait_until(lambda: len(engines(server)) < 3)
        others = set(engines(server))
        client.generate("tiny-lfm")
    (victim,) = set(engines(server)) - others
    assert len(before) <= 3
    with streaming(server, "the of", model="smollm2", max_tokens=150) as kept:
        os.kill(victim, signal.SIGKILL)
        rest = b"".join(kept).decode()
    assert whole.endswith(rest)
    wait_until(lambda: httpx2.get(f"{server.url}/ready").json()["models"]["tiny-lfm"] == "ready")
    assert ask(server.url, "the of", model="tiny-lfm")


def test_a_model_whose_file_is_damaged_fails_its_requests_alone(
    files: Path, tmp_path: Path
) -> None:
    second = tmp_path / "second.gguf"
    shutil.copy(files / "tiny-lfm.gguf", second)
    with running("-m", str(files / "tiny-llama.gguf"), "-m", str(second), *SMALL) as server:
        server.wait_until_ready()
        sound = second.read_bytes()
        second.write_bytes(sound[: len(sound) // 2])
        fields = body("the of", model="second")
        reply = httpx2.post(f"{server.url}/token_stream", json=fields, timeout=TIMEOUT)
        message = reply.json()["error"]["message"]
        assert reply.status_code == 500
        assert "second.gguf" in message
        assert "\n" not in message
        assert ask(server.url, "the of")
        assert httpx2.get(f"{server.url}/ready").json()["models"]["second"] == "failed"
        second.write_bytes(sound)

        def answers() -> bool:
            reply = httpx2.post(f"{server.url}/token_stream", json=fields, timeout=TIMEOUT)
            return reply.status_code == 200

        wait_until(answers)


def test_sigterm_ends_all_engines(files: Path) -> None:
    arguments = ("-m", str(files / "tiny-llama.gguf"), "-m", str(files / "tiny-lfm.gguf"))
    with running(*arguments, *SMALL, "--drain", "250") as server:
        server.wait_until_ready()
        assert ask(server.url, "the of", model="tiny-lfm")
        children = engines(server)
        assert len(children) == 2
        with streaming(server, "the of", model="tiny-lfm", max_tokens=150) as pieces:
            server.process.send_signal(signal.SIGTERM)
            list(pieces)  # raises if it is cut
        assert server.process.wait(TIMEOUT) == 0
        wait_until(lambda: not any(map(is_running, children)))

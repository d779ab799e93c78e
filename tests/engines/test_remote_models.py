"""The models that another server lists, and which of them is meant."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.engines.remote_models import (
    RemoteModel,
    only_model,
    parse_model,
    parse_models,
    unknown_model,
    unlisted_model,
)
from llmstream_cli.errors import InvalidValueError, ModelNotFoundError, UpstreamError


def listed(*names: str, owner: str = "vllm") -> list[RemoteModel]:
    return parse_models({"data": [{"id": name, "owned_by": owner} for name in names]})


def test_a_model_of_vllm() -> None:
    model = parse_model({"id": "smollm2", "owned_by": "vllm", "max_model_len": 1024})
    assert model is not None
    assert (model.name, model.owner) == ("smollm2", "vllm")
    assert (model.info.name, model.info.ctx_size) == ("smollm2", 1024)
    assert "vllm" in model.info.description


def test_a_model_of_llama_server() -> None:
    meta = {"n_vocab": 49152, "n_ctx_train": 8192, "n_params": 134515008, "size": 98563584}
    model = parse_model({"id": "smollm2", "owned_by": "llamacpp", "meta": meta})
    assert model is not None
    info = model.info
    assert (info.vocab_size, info.ctx_train, info.num_parameters) == (49152, 8192, 134515008)
    assert (info.size_bytes, info.ctx_size) == (98563584, 0)


@pytest.mark.parametrize("count", [-1, True, "1024", 1.5, None, 10**400])
def test_what_can_be_no_count_is_none(count: object) -> None:
    model = parse_model({"id": "x", "owned_by": 7, "max_model_len": count, "meta": [count]})
    assert model is not None
    assert (model.info.ctx_size, model.owner) == (0, "")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["id", "data", "x"]), inner),
)


@given(json_values)
def test_any_json_makes_a_list(body: object) -> None:
    assert all(model.name for model in parse_models(body))


@pytest.mark.parametrize("body", [{}, {"data": []}, {"data": [7]}, [], "models", None])
def test_no_model_is_an_error(body: object) -> None:
    with pytest.raises(UpstreamError, match="does not say what model it has"):
        only_model(parse_models(body))


def test_the_only_model_is_meant() -> None:
    assert only_model(listed("a")).name == "a"
    assert unlisted_model("b").name == "b"


def test_of_several_models_one_must_be_named() -> None:
    with pytest.raises(InvalidValueError, match=r"name one: m0, m1, m2, m3, m4, …$"):
        only_model(listed(*(f"m{number}" for number in range(9))))


def test_our_own_server_lists_its_default_first() -> None:
    assert only_model(listed("b", "a", owner="llmstream")).name == "b"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("Smolm2", "did you mean SmolLM2?"), ("gpt", "it has SmolLM2, qwen3")],
)
def test_an_unknown_model(name: str, hint: str) -> None:
    error = unknown_model(name, listed("SmolLM2", "qwen3"))
    assert isinstance(error, ModelNotFoundError)
    assert str(error) == f"the server has no model {name!r}; {hint}"

"""The page's conversations, run in Node.js: requests and files."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.web.node import Worker, running

SETTINGS: dict[str, Any] = {"model": None, "system": "", "context": None, "options": {}}


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with running("conversation_worker.mjs", "conversation.js") as worker:
        yield worker


def call(worker: Worker, name: str, argument: Any) -> Any:
    reply = worker.ask([name, argument])
    assert "error" not in reply, reply["error"]
    return reply["value"]


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "text": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "text": text}


def asks(query: str) -> dict[str, Any]:
    """What is in every request."""
    return {"query": query, "include_reasoning": True}


def body(worker: Worker, asked: list[dict[str, Any]], **settings: Any) -> Any:
    return call(worker, "body", {"settings": SETTINGS | settings, "asked": asked})


# ---- requests ---------------------------------------------------------------------------------


def test_a_first_question_is_all_of_its_request(worker: Worker) -> None:
    assert body(worker, [user("Why?")]) == asks("Why?")


def test_the_turns_before_it_are_its_messages(worker: Worker) -> None:
    asked = [user("one"), assistant("two"), user("three")]
    assert body(worker, asked) == {
        **asks("three"),
        "messages": [
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "two"},
        ],
    }


def test_a_question_without_an_answer_is_left_out(worker: Worker) -> None:
    asked = [user("one"), assistant(" "), user("three")]
    assert body(worker, asked) == asks("three")
    unanswered = [user("one"), user("two")]
    assert body(worker, unanswered) == asks("two")


def test_what_a_model_thought_is_not_sent_again(worker: Worker) -> None:
    thought = "<think>Hm.</think>\n\ntwo"
    asked = [user("one"), assistant(thought), user("three")]
    assert body(worker, asked)["messages"][1] == {"role": "assistant", "content": "two"}
    unfinished = [asked[0], assistant("<think>Hm"), asked[2]]
    assert body(worker, unfinished) == asks("three")


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("plain", "", "plain"),
        ("<think>\nHm.\n</think>\n\nYes", "Hm.", "Yes"),
        ("\n<think>Hm", "Hm", ""),
        ("<think></think>Yes", "", "Yes"),
        ("A <think> tag</think>", "", "A <think> tag</think>"),
    ],
)
def test_a_thought_comes_first_and_in_a_tag(
    worker: Worker, text: str, thought: str, answer: str
) -> None:
    assert call(worker, "thought", text) == {"thought": thought, "answer": answer}


def test_settings_are_fields_of_the_request(worker: Worker) -> None:
    asked = [user("?")]
    told = body(worker, asked, system="Be brief.", model="m", options={"top_k": 3, "stop": ["x"]})
    options = {"top_k": 3, "stop": ["x"]}
    assert told == {**asks("?"), **options, "system": "Be brief.", "model": "m"}
    told = body(worker, asked, system="Be brief.", context="sql")
    assert told == {**asks("?"), "context": "sql"}  # the API takes one of them


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Why?", "Why?"),
        ("  one\ntwo", "one"),
        ("x" * 60, "x" * 60),
        ("x" * 61, "x" * 60),
        ("word " * 30, ("word " * 12).rstrip()),
    ],
)
def test_a_title_is_the_first_line(worker: Worker, text: str, title: str) -> None:
    assert call(worker, "title", text) == title


# ---- files ------------------------------------------------------------------------------------

_LINES = [
    "text",
    "",
    "\\",
    "# head",
    "<!-- llmstream: user -->",
    "\\<!-- llmstream: user -->",
    "  ",
]
_LINES += ["<!-- llmstream: system -->", "\\\\<!-- llmstream: x -->", "```", "é\u2028\U0001f600"]
_TEXTS = st.lists(st.sampled_from(_LINES), min_size=1, max_size=6).map("\n".join)


@given(texts=st.lists(_TEXTS, min_size=1, max_size=4), system=_TEXTS)
def test_a_conversation_survives_markdown(worker: Worker, texts: list[str], system: str) -> None:
    messages = [[user, assistant][place % 2](text) for place, text in enumerate(texts)]
    settings = SETTINGS | {"system": system}
    given_ = {"title": "Title", "settings": settings, "messages": messages}
    told = call(worker, "markdown", given_)
    assert told["title"] == "Title"
    assert told["settings"]["system"] == system
    assert [without_id(one) for one in told["messages"]] == messages


def without_id(message: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in message.items() if name != "id"}


def test_a_conversation_survives_json_with_new_ids(worker: Worker) -> None:
    settings = {"model": "m", "system": "s", "context": "c", "options": {"top_k": 1}}
    messages = [{"id": "q"} | user("one"), {"id": "a", "model": "m"} | assistant("two")]
    given_ = {"id": "c", "title": "T", "updated": 6, "settings": settings, "messages": messages}
    (told,) = call(worker, "json", [given_])
    assert told["id"] != "c"
    assert not {"q", "a"} & {one["id"] for one in told["messages"]}
    assert (told["title"], told["updated"], told["settings"]) == ("T", 6, settings)
    assert list(map(without_id, told["messages"])) == list(map(without_id, messages))


@pytest.mark.parametrize(
    "messages", [None, {}, [None], [1], [{}], [{"role": "system", "text": "x"}], [{"text": 5}]]
)
def test_a_file_with_other_messages_is_refused(worker: Worker, messages: Any) -> None:
    file = {"format": "llmstream conversations", "conversations": [{"messages": messages}]}
    reply = worker.ask(["read", json.dumps(file)])
    assert "lacks" in reply["error"]


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"format": "llmstream conversations"}'])
def test_another_file_is_refused(worker: Worker, content: str) -> None:
    assert "error" in worker.ask(["read", content])


def test_what_a_file_has_besides_is_dropped(worker: Worker) -> None:
    one = user("x") | {"stats": {"prompt_tokens": "x", "more": 1}, "model": 5, "more": "x"}
    more = {"title": 5, "updated": "x", "settings": [], "id": "mine", "more": 1}
    file = {"format": "llmstream conversations", "conversations": [{"messages": [one]} | more]}
    (told,) = call(worker, "read", json.dumps(file))
    assert told["title"] == ""
    assert told["id"] != "mine"
    assert told["settings"] == SETTINGS
    assert told["messages"][0]["stats"] == {}
    assert not {"more", "model"} & set(told["messages"][0])

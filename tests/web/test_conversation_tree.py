"""The page's conversations, run in Node.js: trees of messages, requests and files."""

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


def message(id_: str, parent: str | None, text: str = "x", created: int = 0) -> dict[str, Any]:
    role = "assistant" if id_.startswith("a") else "user"
    return {"id": id_, "parent": parent, "role": role, "text": text, "created": created}


def body(worker: Worker, path: list[dict[str, Any]], **settings: Any) -> Any:
    return call(worker, "body", {"settings": SETTINGS | settings, "path": path})


def asks(query: str) -> dict[str, Any]:
    """What is in every request."""
    return {"query": query, "include_reasoning": True}


# ---- requests ---------------------------------------------------------------------------------


def test_a_first_question_is_all_of_its_request(worker: Worker) -> None:
    assert body(worker, [message("q", None, "Why?")]) == asks("Why?")


def test_the_turns_before_it_are_its_messages(worker: Worker) -> None:
    path = [message("q1", None, "one"), message("a1", "q1", "two"), message("q2", "a1", "three")]
    assert body(worker, path) == {
        **asks("three"),
        "messages": [
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "two"},
        ],
    }


def test_a_question_without_an_answer_is_left_out(worker: Worker) -> None:
    path = [message("q1", None, "one"), message("a1", "q1", " "), message("q2", "a1", "three")]
    assert body(worker, path) == asks("three")
    unanswered = [message("q1", None, "one"), message("q2", "q1", "two")]
    assert body(worker, unanswered) == asks("two")


def test_what_a_model_thought_is_not_sent_again(worker: Worker) -> None:
    thought = "<think>Hm.</think>\n\ntwo"
    path = [message("q1", None, "one"), message("a1", "q1", thought), message("q2", "a1", "three")]
    assert body(worker, path)["messages"][1] == {"role": "assistant", "content": "two"}
    unfinished = [path[0], message("a1", "q1", "<think>Hm"), path[2]]
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
    path = [message("q", None, "?")]
    told = body(worker, path, system="Be brief.", model="m", options={"top_k": 3, "stop": ["x"]})
    options = {"top_k": 3, "stop": ["x"]}
    assert told == {**asks("?"), **options, "system": "Be brief.", "model": "m"}
    told = body(worker, path, system="Be brief.", context="sql")
    assert told == {**asks("?"), "context": "sql"}  # the API takes one of them


# ---- trees ------------------------------------------------------------------------------------

TREE = [
    message("q1", None, created=1),
    message("a1", "q1", created=2),
    message("a2", "q1", created=3),
    message("q2", "a1", created=4),
    message("q3", "a1", created=5),
]


@pytest.mark.parametrize(
    ("leaf", "expected"),
    [("q3", ["q1", "a1", "q3"]), ("a2", ["q1", "a2"]), ("q1", ["q1"]), ("?", []), (None, [])],
)
def test_a_path_leads_from_the_first_to_the_leaf(
    worker: Worker, leaf: str | None, expected: list[str]
) -> None:
    path = call(worker, "path", {"messages": TREE, "leaf": leaf})
    assert [one["id"] for one in path] == expected


def test_the_newest_way_leads_to_the_leaf(worker: Worker) -> None:
    for start, leaf in (("q1", "a2"), ("a1", "q3"), ("q2", "q2")):
        (given_,) = [one for one in TREE if one["id"] == start]
        assert call(worker, "leaf", {"messages": TREE, "message": given_}) == leaf


def test_a_circle_has_an_end(worker: Worker) -> None:
    circle = [message("q1", "a1"), message("a1", "q1")]
    assert len(call(worker, "path", {"messages": circle, "leaf": "q1"})) == 2
    assert call(worker, "leaf", {"messages": circle, "message": circle[0]}) in {"q1", "a1"}


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Why?", "Why?"),
        ("  one\ntwo", "one"),
        ("x" * 60, "x" * 60),
        ("x" * 61, "x" * 59 + "\u2026"),
        ("word " * 30, ("word " * 30)[:59].rstrip() + "\u2026"),
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
    path = [message(f"{'qa'[place % 2]}{place}", None, text) for place, text in enumerate(texts)]
    conversation = {"title": "Title", "settings": SETTINGS | {"system": system}}
    told = call(worker, "markdown", {"conversation": conversation, "path": path})
    assert told["conversation"]["title"] == "Title"
    assert told["conversation"]["settings"]["system"] == system
    assert [one["text"] for one in told["messages"]] == texts
    assert [one["role"] for one in told["messages"]] == [one["role"] for one in path]
    assert told["conversation"]["leaf"] == told["messages"][-1]["id"]


def test_a_tree_survives_json_with_new_ids(worker: Worker) -> None:
    conversation = {"id": "c", "title": "T", "created": 5, "updated": 6, "leaf": "a2"}
    settings = {"model": "m", "system": "s", "context": "c", "options": {"top_k": 1}}
    entries = [{"conversation": conversation | {"settings": settings}, "messages": TREE}]
    (told,) = call(worker, "json", entries)
    ids = {one["id"]: read["id"] for one, read in zip(TREE, told["messages"], strict=True)}
    assert not set(ids) & set(ids.values())
    assert told["conversation"]["settings"] == settings
    assert told["conversation"]["leaf"] == ids["a2"]
    assert [one["parent"] for one in told["messages"]] == [ids.get(one["parent"]) for one in TREE]
    assert {one["conversation"] for one in told["messages"]} == {told["conversation"]["id"]}


@pytest.mark.parametrize(
    "messages",
    [None, {}, [None], [1], [{}], [{"role": "system", "text": "x", "id": "1"}], [{"text": 5}]],
)
def test_a_file_with_other_messages_is_refused(worker: Worker, messages: Any) -> None:
    file = {"format": "llmstream conversations", "conversations": [{"messages": messages}]}
    reply = worker.ask(["read", json.dumps(file)])
    assert "lacks" in reply["error"]


def test_what_a_file_has_besides_is_dropped(worker: Worker) -> None:
    one = message("q", None) | {"stats": {"seconds": "x", "more": 1}, "model": 5, "more": "x"}
    more = {"title": 5, "created": "x", "settings": [], "id": "mine", "more": 1}
    file = {"format": "llmstream conversations", "conversations": [{"messages": [one]} | more]}
    (told,) = call(worker, "read", json.dumps(file))
    assert told["conversation"]["title"] == ""
    assert told["conversation"]["id"] != "mine"
    assert told["conversation"]["settings"] == SETTINGS
    assert told["messages"][0]["stats"] == {}
    assert not {"more", "model"} & set(told["messages"][0])

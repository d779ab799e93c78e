"""gpt-oss's channels are told apart, wherever the stream is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.core.output import MARKERS, Delta, HarmonySplitter, Phase

ANSWER = (
    "<|channel|>analysis<|message|>Hm: é<|end|><|start|>assistant<|channel|>final<|message|>Yes."
)


def mark(text: str) -> str:
    for token, character in MARKERS.items():
        text = text.replace(token, character)
    return text


def run(pieces: list[str], prompt: str = "<|start|>assistant") -> tuple[Delta, HarmonySplitter]:
    splitter = HarmonySplitter({})
    splitter.skip(mark(prompt))
    deltas = [*map(splitter.push, pieces), splitter.flush()]
    return Delta("".join(d.text for d in deltas), "".join(d.reasoning for d in deltas)), splitter


@pytest.mark.parametrize(
    ("prompt", "text", "expected"),
    [
        ("<|start|>assistant", ANSWER, Delta("Yes.", "Hm: é")),
        ("<|start|>assistant", ANSWER + "<|return|>", Delta("Yes.", "Hm: é")),
        ("<|start|>assistant", "<|channel|>final<|message|>Yes.", Delta("Yes.")),
        ("<|start|>assistant", "<|channel|>commentary<|message|>I look.<|call|>", Delta("I look.")),
        ("<|start|>assistant<|channel|>analysis<|message|>", "Hm<|end|>", Delta("", "Hm")),
        ("<|start|>assistant<|channel|>final<|message|>It is", " so.", Delta(" so.")),
        ("<|start|>assistant", "Yes.", Delta("Yes.")),
        ("", "Yes.", Delta("Yes.")),
        (
            "<|start|>assistant",
            (
                "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary<|message|>"
                "b<|end|><|start|>assistant<|channel|>final<|message|>c"
            ),
            Delta("b\n\nc", "a"),
        ),
        (
            "<|start|>assistant",
            " to=functions.f<|channel|>commentary<|constrain|>json<|message|>{}<|call|>",
            Delta("{}"),
        ),
    ],
)
def test_channels_are_told_apart(prompt: str, text: str, expected: Delta) -> None:
    assert run(list(mark(text)), prompt)[0] == run([mark(text)], prompt)[0] == expected


def test_a_marker_that_is_spelled_is_text() -> None:
    assert run([mark("<|channel|>final<|message|>"), "<|end|>"])[0] == Delta("<|end|>")


PARTS = st.lists(st.sampled_from([*MARKERS, "analysis", "final", "assistant", "to=", "a", " "]))


@given(st.data(), PARTS.map("".join))
def test_the_parts_do_not_depend_on_how_the_text_is_cut(data: st.DataObject, text: str) -> None:
    text = mark(text)
    borders = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=9)))
    pieces = [text[a:b] for a, b in zip([0, *borders], [*borders, len(text)], strict=True)]
    assert run(pieces)[0] == run([text])[0]


def test_the_phase_tells_where_the_answer_is() -> None:
    splitter = HarmonySplitter({})
    splitter.skip(mark("<|start|>assistant"))
    phases = [(splitter.push(c), splitter.phase)[1] for c in mark(ANSWER)]
    assert phases == sorted(phases)
    assert set(phases) == set(Phase)

"""Which file of a repository is the model."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.models.reference import choose, is_model, part_names, quant_of

FILES = [
    "README.md",
    "mmproj-Q4_K_M.gguf",
    "m-BF16.gguf",
    "m-IQ4_XS.gguf",
    "m-Q4_K_S.gguf",
    "m-Q8_0.gguf",
    "split/m-UD-Q2_K_XL-00001-of-00002.gguf",
    "split/m-UD-Q2_K_XL-00002-of-00002.gguf",
    "m.imatrix.gguf",
]


@pytest.mark.parametrize(
    ("files", "quant", "chosen"),
    [
        (FILES, None, "m-Q8_0.gguf"),
        ([*FILES, "m.q4_k_m.gguf"], None, "m.q4_k_m.gguf"),
        (["b-F32.gguf", "a-F16.gguf"], None, "b-F32.gguf"),
        (["m-00002-of-00002.gguf", "m-00001-of-00002.gguf"], None, "m-00001-of-00002.gguf"),
        (FILES, "q4_k_s", "m-Q4_K_S.gguf"),
        (FILES, "Q4_K", None),
        (FILES, "F16", None),
        (FILES, "bf16", "m-BF16.gguf"),
        (FILES, "Q4_XS", None),
        (FILES, "Q2_K_XL", "split/m-UD-Q2_K_XL-00001-of-00002.gguf"),
        (FILES, "UD-Q2_K_XL", "split/m-UD-Q2_K_XL-00001-of-00002.gguf"),
        (FILES, ".*", None),
        (["Q6_K/m-00001-of-00001.gguf"], "Q6_K", "Q6_K/m-00001-of-00001.gguf"),
        (["README.md", "mmproj-F16.gguf"], None, None),
        ([], None, None),
    ],
)
def test_the_choice(files: list[str], quant: str | None, chosen: str | None) -> None:
    assert choose(files, quant) == chosen


@pytest.mark.parametrize(
    ("file", "quant"),
    [
        ("mistral-7b-instruct-v0.2.Q4_K_M.gguf", "Q4_K_M"),
        ("smollm2-360m-instruct-q8_0.gguf", "q8_0"),
        ("model-puffin-phi-v2-q4k.gguf", "q4k"),
        ("folder/m-UD-IQ2_XXS-00001-of-00002.gguf", "UD-IQ2_XXS"),
        ("m-BF16.GGUF", "BF16"),
        ("gpt-oss-20b-MXFP4.gguf", "MXFP4"),
        ("Qwen3.gguf", None),
        ("m-Q8_0-imat.gguf", None),
    ],
)
def test_the_quantization_is_read_from_the_name(file: str, quant: str | None) -> None:
    assert quant_of(file) == quant


def test_parts_are_counted() -> None:
    assert part_names("a/m-00002-of-00003.gguf") == (
        "a/m-00001-of-00003.gguf",
        "a/m-00002-of-00003.gguf",
        "a/m-00003-of-00003.gguf",
    )
    for alone in ("m.gguf", "m-1-of-3.gguf", "m-00004-of-00003.gguf", "m-00000-of-00003.gguf"):
        assert part_names(alone) == (alone,)


@given(st.integers(1, 40), st.data())
def test_any_part_names_all_and_only_the_first_is_a_model(count: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(1, count))
    file = f"m-{index:05}-of-{count:05}.gguf"
    parts = part_names(file)
    assert len(set(parts)) == count
    assert parts[index - 1] == file
    assert {part_names(part) for part in parts} == {parts}
    assert is_model(file) == (index == 1)

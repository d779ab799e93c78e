"""What a user calls a model, and which file of a repository that is."""

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.errors import ModelNotFoundError
from llmstream_cli.models.reference import (
    HubModel,
    choose,
    is_model,
    is_safe_path,
    parse_reference,
    part_names,
    quant_of,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"
AT_PR_3 = HubModel("user/repo", file="m.gguf", revision="refs/pr/3")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("puffin", "puffin"),
        ("qwen3.5-2b", "qwen3.5-2b"),
        ("user/repo", HubModel("user/repo")),
        ("user/repo:q4_K_m", HubModel("user/repo", quant="q4_K_m")),
        ("user/repo/m.gguf", HubModel("user/repo", file="m.gguf")),
        ("user/repo/a/b/m.GGUF", HubModel("user/repo", file="a/b/m.GGUF")),
        ("user/repo@v1", HubModel("user/repo", revision="v1")),
        ("user/repo@refs/pr/3", HubModel("user/repo", revision="refs/pr/3")),
        ("user/repo:Q8_0@v1", HubModel("user/repo", quant="Q8_0", revision="v1")),
        ("user/repo@v1:Q8_0", HubModel("user/repo", quant="Q8_0", revision="v1")),
        ("user/repo/m.gguf@v1", HubModel("user/repo", file="m.gguf", revision="v1")),
        ("user/repo@v1/a/m.gguf", HubModel("user/repo", file="a/m.gguf", revision="v1")),
        (f"user/repo@{COMMIT}", HubModel("user/repo", revision=COMMIT)),
        ("hf.co/user/repo:Q8_0", HubModel("user/repo", quant="Q8_0")),
        ("HuggingFace.co/user/repo/", HubModel("user/repo")),
        ("huggingface.co/user/repo/m.gguf", HubModel("user/repo", file="m.gguf")),
        ("https://huggingface.co/user/repo", HubModel("user/repo")),
        (
            "https://hf.co/user/repo/blob/v1/a%20b/m.gguf",
            HubModel("user/repo", None, "a b/m.gguf", "v1"),
        ),
        ("https://hf.co/user/repo/resolve/refs%2Fpr%2F3/m.gguf?download=true", AT_PR_3),
        ("https://hf.co/user/repo/blob/refs/pr/3/m.gguf", AT_PR_3),
        ("https://hf.co/user/repo/tree/v1", HubModel("user/repo", revision="v1")),
        ("https://hf.co/user/repo/tree/a%2Fb", HubModel("user/repo", revision="a/b")),
        ("https://hf.co/user/repo?show_file_info=m.gguf", HubModel("user/repo", file="m.gguf")),
        ("model.gguf", Path("model.gguf")),
        ("folder/model.gguf", Path("folder/model.gguf")),
        ("./user/repo", Path("user/repo")),
        ("../m.gguf", Path("../m.gguf")),
        ("/models/m.gguf", Path("/models/m.gguf")),
        ("/a folder/m.gguf", Path("/a folder/m.gguf")),
    ],
)
def test_each_form_means_one_thing(text: str, meant: HubModel | Path | str) -> None:
    assert parse_reference(text) == meant


@pytest.mark.parametrize("text", ["puffin", "user/repo", "user/repo:Q8_0", "a b", "hf.co/x/y"])
def test_a_file_that_is_there_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / text
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"GGUF")
    assert parse_reference(text) == Path(text)


def test_a_folder_that_is_there_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "user" / "repo").mkdir(parents=True)
    assert parse_reference("user/repo") == HubModel("user/repo")


def test_a_tilde_is_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_reference("~/m.gguf") == tmp_path / "m.gguf"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("two words", "is not a model's name"),
        ("nul\0", "is not a model's name"),
        ("new\nline", "is not a model's name"),
        ("user/../repo", "is not the name of a repository"),
        ("user/repo/../m.gguf", "cannot be the path"),
        ("user/repo/a//m.gguf", "cannot be the path"),
        ("user/repo/README.md", "'README.md' of user/repo is not a GGUF file"),
        ("user/re--po", "is not the name of a repository"),
        ("user/repo.git", "is not the name of a repository"),
        ("user/-repo", "is not the name of a repository"),
        ("user/", "is not the name of a repository"),
        ("user/rëpo", "is not the name of a repository"),
        ("user/repo:", "'' is not the name of a quantization"),
        ("user/repo:Q4/0", "is not the name of a"),
        ("user/repo@", "'' cannot be a branch, a tag or a commit"),
        ("user/repo@-x", "cannot be a branch"),
        ("user/repo@a..b/../m.gguf", "cannot be the path"),
        ("user/repo:Q8_0@v1/m.gguf", "both a file and a quantization"),
        ("https://example.com/user/repo", "from huggingface.co only"),
        ("https://huggingface.co.evil.example/user/repo", "from huggingface.co only"),
        ("https://me@huggingface.co/user/repo", "from huggingface.co only"),
        ("ftp://huggingface.co/user/repo", "from huggingface.co only"),
        ("file:///etc/passwd", "from huggingface.co only"),
        ("https://[/user/repo", "is not an address"),
        ("https://huggingface.co/", "is not the name of a repository"),
        ("https://huggingface.co/user", "is not the name of a repository"),
        ("https://huggingface.co/datasets/user/repo", "is not the address of a model"),
        ("https://huggingface.co/user/repo/tree/main/folder", "is a folder; name a file in it"),
        ("https://huggingface.co/user/repo/blob/main", "cannot be the path of a file"),
        ("https://huggingface.co/user/repo/blob/main/..%2F..%2Fm.gguf", "cannot be the path"),
    ],
)
def test_what_is_none_of_them_is_refused_in_a_line(text: str, complaint: str) -> None:
    with pytest.raises(ModelNotFoundError, match=complaint) as raised:
        parse_reference(text)
    assert "\n" not in str(raised.value)


NAMES = st.from_regex(r"[A-Za-z0-9_]([A-Za-z0-9._]{0,20}[A-Za-z0-9_])?", fullmatch=True).filter(
    lambda name: ".." not in name
)
REPOS = (
    st.tuples(NAMES, NAMES)
    .map("/".join)
    .filter(lambda repo: not repo.lower().endswith((".git", ".gguf")) and "hf.co" not in repo)
)
QUANTS = st.none() | st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,10}", fullmatch=True)
PATHS = st.none() | st.lists(NAMES, min_size=1, max_size=3).map(lambda p: "/".join(p) + ".gguf")
REVISIONS = st.none() | NAMES


@given(REPOS, QUANTS, PATHS, REVISIONS)
def test_what_is_written_for_a_person_can_be_given_again(
    repo: str, quant: str | None, file: str | None, revision: str | None
) -> None:
    model = HubModel(repo, None if file else quant, file, revision)
    assert parse_reference(str(model)) == model


@given(st.text(string.printable + "ëß\0\u2028", max_size=60))
def test_any_text_is_parsed_or_refused_in_a_line(text: str) -> None:
    complaint = ""
    parsed: HubModel | Path | str | None = None
    try:
        parsed = parse_reference(text)
    except ModelNotFoundError as error:
        complaint = str(error)
    assert complaint.isprintable()
    assert (parsed is None) == bool(complaint)
    if isinstance(parsed, HubModel):
        assert parsed.repo.count("/") == 1
        assert parsed.file is None or parsed.file.lower().endswith(".gguf")


@given(st.text("ab./\\", max_size=12))
def test_a_safe_path_stays_in_its_folder(path: str) -> None:
    if is_safe_path(path):
        joined = (Path("/folder") / path).resolve()
        assert Path("/folder") in joined.parents


# ---- files of a repository ------------------------------------------------------------------


IN_REPO = [
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
        (IN_REPO, None, "m-Q8_0.gguf"),
        ([*IN_REPO, "m.q4_k_m.gguf"], None, "m.q4_k_m.gguf"),
        (["b-F32.gguf", "a-F16.gguf"], None, "b-F32.gguf"),
        (["m-00002-of-00002.gguf", "m-00001-of-00002.gguf"], None, "m-00001-of-00002.gguf"),
        (IN_REPO, "q4_k_s", "m-Q4_K_S.gguf"),
        (IN_REPO, "Q4_K", None),
        (IN_REPO, "F16", None),
        (IN_REPO, "bf16", "m-BF16.gguf"),
        (IN_REPO, "Q4_XS", None),
        (IN_REPO, "Q2_K_XL", "split/m-UD-Q2_K_XL-00001-of-00002.gguf"),
        (IN_REPO, "UD-Q2_K_XL", "split/m-UD-Q2_K_XL-00001-of-00002.gguf"),
        (IN_REPO, ".*", None),
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

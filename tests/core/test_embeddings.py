"""Vectors of tiny models, against the same network in NumPy."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from numpy.typing import NDArray

from llmstream_cli.api import EmbeddingRequest, Embeddings, EngineConfig, GenerationRequest
from llmstream_cli.core.embeddings import Embedder
from llmstream_cli.core.llama import Model
from llmstream_cli.core.model import LoadedModel
from llmstream_cli.errors import LLMStreamError, ModelKindError, PromptError
from tests.gguf_files import (
    write_bert,
    write_gemma3,
    write_lfm2,
    write_llama,
    write_mamba,
    write_nomic_bert,
    write_qwen3,
)

Array = NDArray[np.float64]

MEAN, CLS, LAST, RANK = 1, 2, 3, 4
LENGTHS = (5, 40, 1, 63, 64, 17)


def inputs(lengths: Sequence[int], vocab_size: int = 100) -> list[list[int]]:
    random = np.random.default_rng(7)
    return [[int(one) for one in random.integers(5, vocab_size, length)] for length in lengths]


def run(model: Model, texts: Sequence[Sequence[int]]) -> Array:
    """Embed texts as one request."""
    embedder = Embedder(model, threads=2)
    embedder.add(1, texts)
    vectors: list[Array] = []
    while embedder.has_work:
        for request_id, result in embedder.step():
            assert request_id == 1
            assert isinstance(result, Embeddings), result
            vectors += [np.frombuffer(one, "<f4").astype(np.float64) for one in result.vectors]
    embedder.close()
    return np.array(vectors)


class Bert:
    """The network of `write_bert`."""

    def __init__(self, path: Path) -> None:
        self._tensors = {
            tensor.name: np.array(tensor.data, np.float64) for tensor in GGUFReader(path).tensors
        }

    def __call__(self, tokens: Sequence[int]) -> Array:
        """Return a vector for each token."""
        table = self._tensors
        x = table["token_embd.weight"][tokens] + table["position_embd.weight"][: len(tokens)]
        x = self._norm("token_embd_norm", x + table["token_types.weight"][0])
        for layer in ("blk.0", "blk.1"):
            x = self._norm(f"{layer}.attn_output_norm", x + self._attention(layer, x))
            inner = self.linear(f"{layer}.ffn_up", x)
            gelu = inner * (1 + np.vectorize(math.erf)(inner / math.sqrt(2))) / 2
            x = self._norm(f"{layer}.layer_output_norm", x + self.linear(f"{layer}.ffn_down", gelu))
        return x

    def linear(self, name: str, x: Array) -> Array:
        found: Array = x @ self._tensors[f"{name}.weight"].T + self._tensors[f"{name}.bias"]
        return found

    def _attention(self, layer: str, x: Array) -> Array:
        heads = [
            self.linear(f"{layer}.attn_{which}", x).reshape(len(x), 4, 16).swapaxes(0, 1)
            for which in "qkv"
        ]
        scores = heads[0] @ heads[1].swapaxes(1, 2) / math.sqrt(16)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (weights / weights.sum(-1, keepdims=True)) @ heads[2]
        return self.linear(f"{layer}.attn_output", mixed.swapaxes(0, 1).reshape(x.shape))

    def _norm(self, name: str, x: Array) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
        found: Array = scaled * self._tensors[f"{name}.weight"] + self._tensors[f"{name}.bias"]
        return found


def unit(vector: Array) -> Array:
    found: Array = vector / np.linalg.norm(vector)
    return found


@pytest.mark.parametrize(
    ("pooling", "pool"),
    [(MEAN, lambda x: x.mean(0)), (CLS, lambda x: x[0]), (LAST, lambda x: x[-1])],
    ids=["mean", "cls", "last"],
)
def test_vectors_are_those_of_the_network(
    tmp_path: Path, pooling: int, pool: Callable[[Array], Array]
) -> None:
    path = write_bert(tmp_path / "m.gguf", pooling)
    texts = inputs(LENGTHS)
    network = Bert(path)
    expected = np.array([unit(pool(network(tokens))) for tokens in texts])
    assert np.abs(run(Model(str(path)), texts) - expected).max() < 1e-3


def test_scores_are_those_of_the_network(tmp_path: Path) -> None:
    path = write_bert(tmp_path / "m.gguf", RANK)
    texts, network = inputs(LENGTHS), Bert(path)
    expected = [
        network.linear("cls.output", np.tanh(network.linear("cls", network(tokens)[:1])))[0]
        for tokens in texts
    ]
    assert np.abs(run(Model(str(path)), texts) - np.array(expected)).max() < 5e-3


@pytest.mark.parametrize(
    "write",
    [
        write_bert,
        write_nomic_bert,
        write_qwen3,
        lambda path: write_qwen3(path, pooling_type=LAST),
        lambda path: write_qwen3(path, pooling_type=CLS),
        write_llama,
        write_gemma3,
        write_mamba,
        write_lfm2,
    ],
    ids=[
        "bert",
        "nomic-bert",
        "qwen3",
        "qwen3-last",
        "qwen3-cls",
        "llama",
        "gemma3",
        "mamba",
        "lfm2",
    ],
)
def test_a_vector_does_not_depend_on_the_texts_beside_it(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    model = Model(str(write(tmp_path / "m.gguf")))
    lengths = LENGTHS if "bert" in model.description else (*LENGTHS, 600, 3)
    texts = inputs(lengths)
    together = run(model, texts)
    alone = np.array([run(model, [tokens])[0] for tokens in texts])
    assert np.abs(together - alone).max() < 2e-3
    assert np.abs(np.linalg.norm(together, axis=1) - 1).max() < 1e-5


@pytest.mark.parametrize("write", [write_bert, write_qwen3], ids=["whole", "in parts"])
def test_requests_take_turns_and_a_cancelled_one_leaves_nothing(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    model = Model(str(write(tmp_path / "m.gguf")))
    many, few = inputs([50] * 60), inputs([60, 60, 4])
    embedder = Embedder(model, threads=2)
    embedder.add(1, many)
    embedder.add(2, few)
    embedder.add(3, few)
    embedder.step()
    embedder.cancel(3)
    embedder.cancel(3)
    found: list[bytes] = []
    ended = list[int]()
    while embedder.has_work:
        for request_id, result in embedder.step():
            assert isinstance(result, Embeddings)
            found += result.vectors if request_id == 2 else ()
            ended += [request_id] * result.finished
    assert ended == [2, 1]
    vectors = np.array([np.frombuffer(one, "<f4") for one in found])
    assert np.abs(vectors - run(model, few)).max() < 2e-3


# ---- texts to tokens ------------------------------------------------------------------------


def loaded(path: Path) -> LoadedModel:
    return LoadedModel(EngineConfig(model_path=str(path)))


def test_a_text_gets_the_tokens_at_its_ends_and_ids_get_none(tmp_path: Path) -> None:
    model = loaded(write_bert(tmp_path / "m.gguf"))
    request = EmbeddingRequest(("The cat [SEP]", "", (7, 8)))
    first, second, third = model.encode_texts(request).inputs
    assert (first[0], first[-1], second, third) == (2, 3, [2, 3], [7, 8])
    assert 3 not in first[:-1]  # a control token in a text is text


def test_what_is_longer_than_the_context_is_refused_or_cut_before_its_end(tmp_path: Path) -> None:
    model = loaded(write_bert(tmp_path / "m.gguf"))
    texts = ("the", "and " * 100)
    with pytest.raises(PromptError, match=r"^input 1 has 102 tokens, .* at most 64; .* truncate$"):
        model.encode_texts(EmbeddingRequest(texts))
    _, cut = model.encode_texts(EmbeddingRequest(texts, truncate=True)).inputs
    assert (len(cut), cut[0], cut[-1]) == (64, 2, 3)
    assert len(set(cut[1:-1])) == 1


def test_a_pair_is_separated_as_the_reranker_was_trained(tmp_path: Path) -> None:
    model = loaded(write_bert(tmp_path / "m.gguf", RANK))
    (pair,) = model.encode_texts(EmbeddingRequest(("and",), query="the")).inputs
    assert [pair[0], pair[2], pair[4]] == [2, 3, 3]
    long = EmbeddingRequest(("and " * 100,), query="the", truncate=True)
    (cut,) = model.encode_texts(long).inputs
    assert (len(cut), cut[:3], cut[-1]) == (64, pair[:3], 3)


def test_a_model_does_only_what_it_is_for(tmp_path: Path) -> None:
    embeds = loaded(write_bert(tmp_path / "e.gguf"))
    ranks = loaded(write_bert(tmp_path / "r.gguf", RANK))
    chats = loaded(write_llama(tmp_path / "c.gguf"))
    for model in (embeds, ranks):
        with pytest.raises(ModelKindError, match="does not continue text"):
            model.encode(GenerationRequest(prompt="?"))
    with pytest.raises(ModelKindError, match="cannot embed with r"):
        ranks.encode_texts(EmbeddingRequest(("a",)))
    for model in (embeds, chats):
        with pytest.raises(ModelKindError, match="no rank pooling"):
            model.encode_texts(EmbeddingRequest(("a",), query="b"))
    assert (embeds.info.capabilities, ranks.info.capabilities) == (["embedding"], ["rerank"])


def test_token_ids_have_to_be_in_the_vocabulary(tmp_path: Path) -> None:
    with pytest.raises(LLMStreamError, match="not in the vocabulary"):
        loaded(write_bert(tmp_path / "m.gguf")).encode_texts(EmbeddingRequest(((9999,),)))


def test_a_step_that_answers_wait_for_is_short(tmp_path: Path) -> None:
    embedder = Embedder(Model(str(write_llama(tmp_path / "m.gguf"))), threads=2)
    embedder.add(1, inputs([200, 200]))
    embedder.step(hurried=True)  # how long a token takes is not known yet
    assert embedder.num_tokens == 63
    for token_seconds, num_tokens in ((1.0, 17), (1 / 250, 25), (1e-9, 63)):
        embedder._token_seconds = token_seconds
        before = embedder.num_tokens
        embedder.step(hurried=True)
        assert embedder.num_tokens - before == num_tokens
        embedder._token_seconds = token_seconds
        embedder.step()
        assert embedder.num_tokens - before == num_tokens + 63

"""What a model's files say of it before it is loaded."""

from pathlib import Path

import pytest

from llmstream_cli.api import EngineConfig
from llmstream_cli.core.model import LoadedModel
from llmstream_cli.errors import ModelError
from llmstream_cli.models.file_facts import read_facts
from tests.gguf_files import write_gemma3, write_lfm2, write_llama, write_mamba, write_phi2

WRITERS = (write_llama, write_phi2, write_gemma3, write_mamba, write_lfm2)


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_it_says_what_llama_cpp_says_of_the_loaded_model(write: object, tmp_path: Path) -> None:
    assert callable(write)
    check_against_llama_cpp(write(tmp_path / "model.gguf"))


def test_it_does_of_a_real_one(model_path: Path) -> None:
    check_against_llama_cpp(model_path)


def check_against_llama_cpp(path: Path) -> None:
    facts = read_facts(path)
    info = LoadedModel(EngineConfig(model_path=str(path))).info
    assert facts.num_parameters == info.num_parameters
    assert facts.ctx_size == info.ctx_train
    assert facts.vocab_size == info.vocab_size
    assert facts.chat_template == info.chat_template
    assert facts.file_bytes == path.stat().st_size
    assert facts.quantization is not None
    assert facts.quantization in info.description
    # llama.cpp adds to them what it was told beside the file.
    assert facts.metadata.items() <= info.metadata.items()


@pytest.mark.parametrize(
    ("write", "bytes_per_token"),
    [
        (write_llama, 2 * 2 * (16 + 16) * 2),  # layers, heads, keys and values, half precision
        (write_phi2, 2 * 4 * (16 + 16) * 2),
        (write_mamba, 0),
        (write_lfm2, 1 * 2 * (16 + 16) * 2),  # of its two layers one is recurrent
    ],
)
def test_the_memory_of_a_conversation(write: object, bytes_per_token: int, tmp_path: Path) -> None:
    assert callable(write)
    facts = read_facts(write(tmp_path / "model.gguf"))
    assert facts.kv_bytes_per_token == bytes_per_token
    one = facts.memory_bytes(512)
    assert one > facts.file_bytes
    assert facts.memory_bytes(1024, num_slots=4) - one == (4 * 1024 - 512) * bytes_per_token


def test_a_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    with pytest.raises(ModelError):
        read_facts(path)

"""What a model's files say of it before it is loaded."""

from collections.abc import Callable
from pathlib import Path

import pytest

from llmstream_cli.api import EngineConfig
from llmstream_cli.core.model import LoadedModel
from llmstream_cli.models.file_facts import read_facts
from tests.gguf_files import write_gemma3, write_lfm2, write_llama, write_mamba, write_phi2

# Bytes of keys and values for a token: layers, heads, keys and values, in half precision.
KV_BYTES: dict[Callable[[Path], Path], int | None] = {
    write_llama: 2 * 2 * (16 + 16) * 2,
    write_phi2: 2 * 4 * (16 + 16) * 2,
    write_gemma3: None,
    write_mamba: 0,
    write_lfm2: 1 * 2 * (16 + 16) * 2,  # of its two layers one is recurrent
}


@pytest.mark.parametrize("write", KV_BYTES, ids=lambda write: write.__name__)
def test_it_says_what_llama_cpp_says_of_the_loaded_model(
    write: Callable[[Path], Path], tmp_path: Path
) -> None:
    path = write(tmp_path / "model.gguf")
    facts = read_facts(path)
    info = LoadedModel(EngineConfig(model_path=str(path))).info
    assert (facts.num_parameters, facts.ctx_size) == (info.num_parameters, info.ctx_train)
    assert (facts.vocab_size, facts.chat_template) == (info.vocab_size, info.chat_template)
    assert facts.file_bytes == path.stat().st_size
    assert facts.quantization is not None
    assert facts.quantization in info.description
    # llama.cpp adds to them what it was told beside the file.
    assert facts.metadata.items() <= info.metadata.items()
    assert facts.kv_bytes_per_token == KV_BYTES[write] or KV_BYTES[write] is None
    more = facts.memory_bytes(1024, num_slots=4) - facts.memory_bytes(512)
    assert more == (4 * 1024 - 512) * facts.kv_bytes_per_token
    assert facts.memory_bytes(512) > facts.file_bytes

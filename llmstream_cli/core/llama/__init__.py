"""Safe handles over llama-cpp-python's low-level API.

llama.cpp answers some mistakes with an error code and others with SIGABRT, which no `except`
catches. The rules that keep the process alive:

- a handle owns its pointer and frees it once; whoever makes a `Context` closes it before its
  `Model`, which it keeps alive, is let go;
- constructors may return NULL: test the truth of a pointer, never `is None`;
- what llama.cpp asserts (batch size, sequence and token ids) is an assertion here first: these are
  this program's own mistakes, never a user's;
- a ctypes call releases the GIL, a callback takes it again: only the log has a Python callback.

Nothing else imports `llama_cpp`, and here only `bindings` does.
"""

from llmstream_cli.core.llama.bindings import (
    SpinSwitch,
    cpu_features,
    set_log_sink,
    supports_gpu,
    system_info,
)
from llmstream_cli.core.llama.context import Batch, Context, DecodeAbortedError, GrowingContext
from llmstream_cli.core.llama.embedding_context import EmbeddingContext
from llmstream_cli.core.llama.model import Model, does_not_continue
from llmstream_cli.core.llama.sampler import Sampler, SamplerChain, TokenConstraint

__all__ = [
    "Batch",
    "Context",
    "DecodeAbortedError",
    "EmbeddingContext",
    "GrowingContext",
    "Model",
    "Sampler",
    "SamplerChain",
    "SpinSwitch",
    "TokenConstraint",
    "cpu_features",
    "does_not_continue",
    "set_log_sink",
    "supports_gpu",
    "system_info",
]

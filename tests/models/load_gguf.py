"""Loads the models that are named on standard input, and computes with each: `-m` in a process.

Whatever a file does to llama.cpp it does to this process. A line for a line: `ok`, or why not.
"""

import sys

from llmstream_cli.core.embeddings import Embedder
from llmstream_cli.core.llama import Batch, Context, Model
from llmstream_cli.errors import LLMStreamError


def try_out(path: str) -> str:
    try:
        model = Model(path)
        if model.pooling is not None:
            return embed(model)
        context = Context(model, ctx_size=256, max_seqs=1, max_batch_tokens=32, threads=1)
        tokens = model.tokenize("Hello, world <s> <|im_end|>", special=True)[:16] or [0]
        batch = Batch(32)
        for position, token in enumerate(tokens):
            batch.add(token, position, 0, output=position == len(tokens) - 1)
        context.decode(batch)
        for token in range(min(model.vocab_size, 300)):
            model.piece(token)
        model.control_tokens()
    except LLMStreamError as error:
        return repr(str(error))
    return "ok"


def embed(model: Model) -> str:
    embedder = Embedder(model, threads=1)
    tokens = model.tokenize("Hello, world [SEP]", special=True, ends=True)[: model.ctx_train] or [0]
    embedder.add(1, [tokens, [0, model.vocab_size - 1][: model.ctx_train]])
    while embedder.has_work:
        for _, result in embedder.step():
            if isinstance(result, LLMStreamError):
                raise result
    return "ok"


if __name__ == "__main__":
    for line in sys.stdin:
        print(try_out(line.rstrip("\n")), flush=True)

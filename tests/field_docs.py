"""The tables of request fields in docs/api.md, docs/openai.md and docs/ollama.md.

    python -m tests.field_docs

writes them there anew, from the models. A test compares.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from llmstream_cli.server.body import _described, _schema
from llmstream_cli.server.dialects.anthropic_request import MessagesRequest
from llmstream_cli.server.dialects.embeddings import (
    EmbeddingsRequest,
    OllamaEmbeddingsRequest,
    OllamaEmbedRequest,
    RerankRequest,
)
from llmstream_cli.server.dialects.fields import FieldTable, Refused
from llmstream_cli.server.dialects.ollama import ChatRequest, GenerateRequest, OllamaOptions
from llmstream_cli.server.dialects.openai_chat import ChatCompletionRequest
from llmstream_cli.server.dialects.openai_completions import CompletionRequest
from llmstream_cli.server.dialects.openai_responses.request import ResponsesRequest
from llmstream_cli.server.dialects.plain import TokenStreamRequest
from llmstream_cli.server.dialects.tokenize import DetokenizeBody, TokenizeBody

DOCS = Path(__file__).parent.parent / "docs"
PAGES = [DOCS / "api.md", DOCS / "openai.md", DOCS / "ollama.md"]

# By name: the models of the table, and one whose fields are in the page already.
TABLES: dict[str, tuple[tuple[type[FieldTable], ...], type[FieldTable] | None]] = {
    "token_stream": ((TokenStreamRequest,), None),
    "chat.completions": ((ChatCompletionRequest,), None),
    "completions": ((CompletionRequest,), ChatCompletionRequest),
    "responses": ((ResponsesRequest,), ChatCompletionRequest),
    "messages": ((MessagesRequest,), ChatCompletionRequest),
    "ollama": ((ChatRequest, GenerateRequest), None),
    "options": ((OllamaOptions,), None),
    "embeddings": ((EmbeddingsRequest,), None),
    "rerank": ((RerankRequest,), None),
    "tokenize": ((TokenizeBody, DetokenizeBody), None),
    "embed": ((OllamaEmbedRequest, OllamaEmbeddingsRequest), None),
}

_BLOCK = re.compile(
    r"(<!-- (?P<what>fields|refused|ignored): (?P<name>\S+) -->\n)(?:.*?)(<!-- end -->)", re.DOTALL
)


def fields(model: type[FieldTable]) -> Iterator[tuple[str, ...]]:
    """Yield the fields that are honoured: name, values, meaning."""
    schema = _schema(model)
    for name, field in model.model_fields.items():
        if name not in model.refused:
            values = _described(schema["properties"][name], schema)
            yield f"`{name}`", values, field.description or ""


def refused(model: type[FieldTable], there: Mapping[str, Refused]) -> Iterator[tuple[str, ...]]:
    """Yield the fields that are refused: names, values that are taken, what to do instead."""
    names: dict[tuple[str, str], list[str]] = {}
    for name, how in model.refused.items():
        if there.get(name) != how:
            taken = ", ".join(f"`{json.dumps(value)}`" for value in how.neutral)
            names.setdefault((taken, how.advice), []).append(f"`{name}`")
    for (taken, advice), alike in names.items():
        yield ", ".join(alike), taken, advice


def table(what: str, name: str) -> str:
    """Return a table, or for what is ignored a list."""
    models, base = TABLES[name]
    if what == "ignored":
        ignored = {one for model in models for one in model.ignored}
        return ", ".join(f"`{one}`" for one in sorted(ignored)) + "\n"
    if what == "fields":
        head: tuple[str, ...] = ("field", "value", "")
        there = set(fields(base)) if base else set()
        rows = [row for model in models for row in fields(model) if row not in there]
    else:
        head = ("field", "taken beside `null`", "instead")
        rows = [row for model in models for row in refused(model, base.refused if base else {})]
    lines = [head, ("---", "---", "---"), *dict.fromkeys(rows)]
    escaped = (" | ".join(cell.replace("|", r"\|") for cell in line) for line in lines)
    return "".join(f"| {line} |\n" for line in escaped)


def updated(page: str) -> str:
    """Return the page with its tables as they are now."""
    return _BLOCK.sub(
        lambda block: f"{block[1]}\n{table(block['what'], block['name'])}\n{block[4]}", page
    )


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")

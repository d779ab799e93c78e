"""What the answer has to look like, in the words of OpenAI's API, vLLM and others."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from llmstream_cli.errors import InvalidValueError
from llmstream_cli.server.dialects.common import JSON_OBJECT, Given, choice_grammar, schema_text
from llmstream_cli.server.dialects.fields import FieldTable


class OpenAIFields(FieldTable):
    """Base of what clients send."""

    # OpenAI's clients are typed: a number in a string is a mistake. JSON cannot tell more.
    model_config = ConfigDict(strict=True, allow_inf_nan=False, frozen=True)


class OnlyFields(OpenAIFields):
    """Base of objects that may have no other field."""

    model_config = ConfigDict(extra="forbid")  # each of them would change the answer


Choices = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=1024)]


class JsonSchemaFormat(OpenAIFields):
    """A JSON schema under a name."""

    schema_: dict[str, Any] | None = Field(None, alias="schema")


class ResponseFormat(OnlyFields):
    """What the answer has to look like, in the words of several APIs."""

    type: Literal["text", "json_object", "json", "json_schema", "regex", "grammar"]
    json_schema: JsonSchemaFormat | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    value: dict[str, Any] | str | None = None
    regex: str | None = None
    pattern: str | None = None
    grammar: str | None = None
    name: str | None = None
    description: str | None = None
    strict: bool | None = None

    def given(self, field: str) -> list[Given]:
        """Return the parameter that it asks for; a list of one, or of none.

        Raises:
            InvalidValueError: what its type needs is missing.
        """
        if self.type == "text":
            return []
        if self.type in {"regex", "grammar"}:
            texts = (self.regex or self.pattern) if self.type == "regex" else self.grammar
            text = texts or self.value
            if not isinstance(text, str) or not text:
                raise InvalidValueError(f"{field}.{self.type} must be a string", field)
            return [(field, self.type, text)]
        where, schema = self._schema()
        if schema is not None:
            return [(f"{field}.{where}", "json_schema", schema_text(schema))]
        if self.type == "json_schema":
            raise InvalidValueError(
                f"{field}.json_schema.schema is missing, which is the schema to follow", field
            )
        return [(field, "json_schema", JSON_OBJECT)]

    def _schema(self) -> tuple[str, dict[str, Any] | None]:
        """Return where the schema stands, and the schema."""
        if self.json_schema is not None and self.json_schema.schema_ is not None:
            return "json_schema.schema", self.json_schema.schema_
        if self.schema_ is not None or not isinstance(self.value, dict):
            return "schema", self.schema_
        named = self.value.get("schema")  # Hugging Face's servers take it with a name around it
        return ("value.schema", named) if isinstance(named, dict) else ("value", self.value)


class StructuredOutputs(OnlyFields):
    """vLLM's name for what the answer has to look like."""

    json_: dict[str, Any] | str | None = Field(None, alias="json")
    json_object: bool | None = None
    regex: str | None = None
    choice: Choices | None = None
    grammar: str | None = None

    def given(self, field: str) -> list[Given]:
        """Return the parameter that each of its fields asks for."""
        found: list[Given] = []
        if self.json_ is not None:
            text = self.json_ if isinstance(self.json_, str) else schema_text(self.json_)
            found.append((f"{field}.json", "json_schema", text))
        if self.json_object:
            found.append((f"{field}.json_object", "json_schema", JSON_OBJECT))
        if self.regex:
            found.append((f"{field}.regex", "regex", self.regex))
        if self.choice:
            found.append((f"{field}.choice", "grammar", choice_grammar(self.choice)))
        if self.grammar:
            found.append((f"{field}.grammar", "grammar", self.grammar))
        return found

"""How models write the calls of tools: the grammar that holds them to it, and what reads it."""

from llmstream_cli.prompts.tools.call_format import CallFormat, find_call_format
from llmstream_cli.prompts.tools.parser import CallParser

__all__ = ["CallFormat", "CallParser", "find_call_format"]

"""Grammars and JSON schemas: checked, made ready for llguidance, and followed token by token."""

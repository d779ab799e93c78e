"""llmstream: stream a local language model to the terminal."""

__version__ = "0.1.0"

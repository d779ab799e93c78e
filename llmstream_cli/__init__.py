"""llmstream: stream a local language model to the terminal and over HTTP."""

__version__ = "0.1.0"

"""llmstream: stream a local language model to the terminal and over plain HTTP."""

__version__ = "0.1.0"

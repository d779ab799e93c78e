"""`llmstream bench`."""

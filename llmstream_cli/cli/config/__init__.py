"""Options that are kept, and `llmstream config`."""

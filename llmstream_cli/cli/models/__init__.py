"""`llmstream models`: what there is, fetched and removed."""

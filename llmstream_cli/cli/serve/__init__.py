"""`llmstream serve`: its options, its models, and how it runs."""

"""`llmstream ask`, and how answers are shown there and in a chat."""

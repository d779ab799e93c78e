"""From messages to token ids: chat templates, and the border between scaffold and content."""

"""Conversations, kept on this machine between runs."""

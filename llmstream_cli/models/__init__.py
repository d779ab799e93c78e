"""From what a user calls a model to a file on this machine."""

"""The generation core: no HTTP, no terminal, no model hub."""

"""The generation core: no HTTP, no terminal, no model hub.

`api` is what the rest of the program may know of it; `engine` runs it in this process, and
`supervised` in one of its own.
"""

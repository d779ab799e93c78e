"""Implementations of `api.Engine`: in this process, in a child, pooled, on another server."""

"""HTTP over an engine: a Quart application, and the connections that it is served on."""

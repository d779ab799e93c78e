"""HTTP over an engine: a Quart application and the Hypercorn protocol that serves it."""

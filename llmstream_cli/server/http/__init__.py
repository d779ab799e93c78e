"""The connection layer: sockets, HTTP/1.1, who may ask, and how a request ended."""

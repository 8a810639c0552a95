"""Serving an ASGI application over HTTP/1.1, on trio and httptools, to clients of whom the worst is assumed."""

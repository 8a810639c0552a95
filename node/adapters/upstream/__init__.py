"""The way to OpenAI servers: a pooled HTTP/1.1 client on trio and httptools."""

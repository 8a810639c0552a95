"""The HTTP surface: the OpenAI-compatible endpoints, and the pages of the operator."""

"""The engine: vLLM as a guarded child process, or an OpenAI server that already runs elsewhere."""

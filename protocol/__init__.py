"""The wire: bytes and values, and nothing that waits, listens or tells the time."""

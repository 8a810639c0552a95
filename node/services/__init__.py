"""Loops: each service is one long-lived task that works on ports and knows no adapter and no other service."""

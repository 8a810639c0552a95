"""Hands: one foreign library or one piece of the operating system per file, behind a port."""

"""Decisions: events and the time go in, values come out. Nothing here waits, reads or writes."""

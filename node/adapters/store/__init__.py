"""The history on disk: every performance record that this node knows, in one sqlite file.

Knows no network, and nothing of what a body says. docs/decisions/store.md has the reasons.
"""

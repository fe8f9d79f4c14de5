"""Conversations: their records and readers, and the demo's own ones with the checkers of their skills."""

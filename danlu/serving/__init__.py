"""Talking with a model: the terminal chat."""

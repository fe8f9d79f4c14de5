"""Talking with a model: in the terminal, and over HTTP as OpenAI's API does."""

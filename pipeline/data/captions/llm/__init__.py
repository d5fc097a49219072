"""Captions by an LLM: requests, responses that are never paid for twice, and the file they become."""

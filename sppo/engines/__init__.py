"""Sampling engines: one interface over the libraries that turn prompts into responses."""

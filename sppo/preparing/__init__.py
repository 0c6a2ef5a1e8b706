"""Prompts: reading, cleaning, the chat template, and their division over iterations."""

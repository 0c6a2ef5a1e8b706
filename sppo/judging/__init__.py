"""Preference models, and what becomes of their judgements: probabilities and training pairs."""

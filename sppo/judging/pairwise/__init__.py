"""The embedded preference model: a small pairwise encoder, and its training."""

"""A policy's forward pass: log-probabilities of packed rows."""

"""Self-Play Preference Optimization (Wu et al., arXiv 2405.00675): every stage's work, as plain importable Python."""

__version__ = "0.2.0"

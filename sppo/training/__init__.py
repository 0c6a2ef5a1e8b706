"""The update from pi_t to pi_{t+1}."""

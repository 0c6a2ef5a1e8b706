"""Two alignment runs compared: which is better, how sure that is, and what was done differently."""

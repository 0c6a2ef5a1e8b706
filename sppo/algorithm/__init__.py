"""The paper, a page each: plain arithmetic on values, without files or models."""

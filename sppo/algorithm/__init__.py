"""The paper, a page each: plain arithmetic on values, without files, models or settings."""

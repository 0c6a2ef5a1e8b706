"""Language models as preference models, behind an endpoint or in this process."""

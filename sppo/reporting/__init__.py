"""What people see of a run: the published model, reports, comparisons, and MLflow."""

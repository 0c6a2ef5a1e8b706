"""Submitting an alignment run to Kubeflow Pipelines and following it to its outcome."""

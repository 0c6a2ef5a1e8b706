"""The stages as Kubeflow Pipelines components: thin wrappers, each around one function of `sppo`."""

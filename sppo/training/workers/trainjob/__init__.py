"""Training on several nodes: a TrainJob of Kubeflow Trainer, made, followed and ended from a small pod.

https://www.kubeflow.org/docs/components/trainer/; tested with the fields of its version 2.3.
"""

"""Training on several nodes: a TrainJob of Kubeflow Trainer, made, followed and ended from a small pod.

https://www.kubeflow.org/docs/components/trainer/; tested with the fields of its version 2.3.
"""

from sppo.trainjob.launch import launch
from sppo.trainjob.spec import Pods

__all__ = ["Pods", "launch"]

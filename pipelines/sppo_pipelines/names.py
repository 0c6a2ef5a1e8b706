"""Names by which runs of the pipeline are known, for who reads them without the SDK that builds it."""

from __future__ import annotations

PIPELINE = "sppo"
"""The pipeline, in its package and on the server; Kubeflow names every run's workflow after it."""
GATE_PASSED, GATE_FAILED = "gate-passed", "gate-failed"
"""Branches of which a run that came to its end has taken one: whoever waits for it reads the gate there."""

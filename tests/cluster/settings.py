"""What the environment says of the cluster that the tests are to use."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import pytest
from sppo_pipelines.profile import load_profile

from sppo.errors import ConfigError

NEEDED = ("SPPO_KFP_HOST", "SPPO_OUTPUT", "SPPO_PROFILE")
"""Variables without which nothing is tested."""

T = TypeVar("T")


class LackError(Exception):
    """Something that a test needs is not there: the reason why it is skipped."""


def or_skip(make: Callable[[], T]) -> T:
    """What is made; where something for it is lacking, the test is skipped with the reason."""
    try:
        return make()
    except LackError as lack:
        pytest.skip(str(lack))


class Settings(NamedTuple):
    """The cluster.

    Attributes:
        host: of Kubeflow Pipelines.
        output: the place in S3 under which the runs write.
        profile: the file with the images that the cluster can pull.
        namespace: where the pods of the runs are.
        patch_node: whether a node may be given an extended resource.
        mlflow: address of MLflow as it is reached from here; empty if it is not.
    """

    host: str
    output: str
    profile: Path
    namespace: str
    patch_node: bool
    mlflow: str


def read_settings(environment: Mapping[str, str]) -> Settings:
    """The cluster that the environment names.

    Raises:
        LackError: if it names none.
        ConfigError: for a value that cannot be right.
    """
    missing = [name for name in NEEDED if not environment.get(name)]
    if missing:
        raise LackError(f"no cluster is named: set {', '.join(missing)} (docs/cluster.md, Test a cluster)")
    output = environment["SPPO_OUTPUT"].rstrip("/")
    if not output.startswith("s3://"):
        raise ConfigError(f"SPPO_OUTPUT: {output} is not in S3; set s3://bucket/prefix")
    profile = Path(environment["SPPO_PROFILE"]).resolve()
    if not profile.is_file():
        raise ConfigError(f"SPPO_PROFILE: {environment['SPPO_PROFILE']} is no file")
    load_profile(str(profile))
    return Settings(
        environment["SPPO_KFP_HOST"].rstrip("/"),
        output,
        profile,
        environment.get("SPPO_NAMESPACE") or "kubeflow",
        environment.get("SPPO_PATCH_NODE") == "1",
        environment.get("SPPO_MLFLOW") or environment.get("MLFLOW_TRACKING_URI") or "",
    )

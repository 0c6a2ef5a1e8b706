"""What the tests of the player's rules share: small pipelines, compiled."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kfp import compiler

from tests.backend.package import Package, load

pytest.register_assert_rewrite("tests.backend.expected")


@pytest.fixture
def compiled(tmp_path: Path) -> Callable[[Any], Package]:
    """Compiles a pipeline into a package."""

    def compile_small(pipeline: Any) -> Package:
        compiler.Compiler().compile(pipeline, str(tmp_path / "small.yaml"))
        return load(tmp_path / "small.yaml")

    return compile_small

"""The bench component."""

from sppo_components.bench.component import bench

__all__ = ["bench"]

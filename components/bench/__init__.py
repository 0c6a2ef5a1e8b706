"""The bench component."""

from components.bench.component import bench

__all__ = ["bench"]

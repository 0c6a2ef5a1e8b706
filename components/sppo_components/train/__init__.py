"""The train component."""

from sppo_components.train.component import train

__all__ = ["train"]

"""kfp's executor in the process of a stage that is played here, without what it and libraries log of their inner steps.

On a cluster the executor is started as it is: who reads a pod's log looks for them.
"""

from __future__ import annotations

import logging
import sys

from kfp.dsl.executor_main import executor_main


def main() -> None:
    """Run the component that the arguments name."""
    # Set up first, as kfp would let every library say what it does (`_setup_logging` of executor_main.py, 2.17.3).
    logging.basicConfig(stream=sys.stdout, format="%(name)s: %(message)s", level=logging.ERROR)
    executor_main()


if __name__ == "__main__":
    main()

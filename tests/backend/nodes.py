"""What a run costs Argo: its nodes, and the drivers between two stages."""

from tests.backend.argo import Node
from tests.backend.player import Run


def nodes(run: Run) -> list[Node]:
    """The nodes that Argo keeps of a run in which each pod needed one attempt; a further attempt is one more.

    A pod is two (Retry and Pod), and so is a DAG (Retry and DAG). So a container's task is six: its driver, a DAG, its
    pod. A nested pipeline or a branch is four and what it holds, a branch that is not taken three, a loop five and six
    for each iteration. A task that depends on one which was skipped is two.
    """
    return run.nodes


def drivers_between(run: Run, earlier: str, later: str) -> int:
    """The drivers in a row for which a stage waits after another one has ended; the most that a pod of it waits for.

    Args:
        run: that was played.
        earlier: name of a component.
        later: name of a component.

    Raises:
        ValueError: if no pod of the later one waits for one of the earlier one.
    """
    rows = []
    for pod in (node for node in run.nodes if node.role == later):
        row, node = 0, pod
        while node.after and (node is pod or node.role in {"", "driver"}):
            node = max(node.after, key=lambda before: before.round)
            row += node.role == "driver"
        rows += [row] if node.role == earlier else []
    if not rows:
        raise ValueError(f"no {later} waits for a {earlier}")
    return max(rows)

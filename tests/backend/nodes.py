"""What Argo's nodes of a run tell: the drivers that lie between two stages."""

from tests.backend.player import Run


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

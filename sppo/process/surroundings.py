"""The surroundings of a stage's process, put right where it starts.

Who may write its files, how its threads wait, which MLflow it tells.
"""

from __future__ import annotations

import os

from sppo.store.local_cache import OTHERS_WRITE

MLFLOW = ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
"""What MLflow reads; the package puts the same with `SPPO_` before it into pods."""

SPINS = "3000"
"""How often a waiting thread looks before it sleeps.

A step of the default run's training on two cores took 5.3 s with 10,000 and 7.0 s with 1,000. That is libgomp's own
choice where it has more threads than processors. In other runs it took 6.2 s with 10,000 and 6.1 s with 3,000.
Beside two busy processes it took 13 s with 1,000 and 3,000, 16 s with 10,000, and 21 s with 30,000.
"""


def put_right() -> None:
    """Make a process what a stage expects it to be.

    Argo starts a container's command with the umask 0 (`workflow/executor/osspecific/umask_linux.go`), so that
    everybody could write what a stage writes. A stricter umask than ours stays.
    """
    os.umask(os.umask(0) | OTHERS_WRITE)
    wait_briefly()
    name_mlflow()


def wait_briefly() -> None:
    """Let threads that wait for each other sleep soon; call it before torch is loaded, which brings libgomp.

    Else each looks 300,000 times (`GOMP_SPINCOUNT` in libgomp's manual), for milliseconds: where others use the
    processors too, it takes from the very thread that it waits for. What the environment says already stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def name_mlflow() -> None:
    """Let MLflow read what the package put into this pod: its server's address, user and password, as a set.

    Where `MLFLOW_TRACKING_URI` is set already, it is another server's, such as the one of Kubeflow's own plugin
    (`backend/src/v2/common/plugins/mlflow/handler.go`). That server must not get our password; nor must ours get its:
    the plugin puts a user and a password into pods without an address (`apiserver/plugins/mlflow/handler.go`).
    """
    if os.environ.get(MLFLOW[0]) or not os.environ.get(f"SPPO_{MLFLOW[0]}"):
        return
    for name in MLFLOW:
        value = os.environ.get(f"SPPO_{name}")
        if value:
            os.environ[name] = value
        else:
            os.environ.pop(name, None)

"""The commands of `sppo` that speak to a cluster, as the command line has them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import tyro

from sppo.cli import ConfigFile, Overrides, collect_values
from sppo.errors import ConfigError

Host = Annotated[
    str, tyro.conf.arg(metavar="URL", help="Kubeflow Pipelines, as https://kubeflow.example.org/pipeline.")
]
MOST_HOURS = 1_000_000
"""The most that `sppo keep-going --hours` takes: a hundred years."""
KeepGoing = Annotated[int, tyro.conf.arg(metavar="N")]


def submit(
    host: Host,
    overrides: Overrides = (),
    preset: str | None = None,
    config_file: ConfigFile = None,
    experiment: str = "",
    namespace: str = "",
    max_iterations: int = 3,
    profile: str = "",
    images: Path | None = None,
    service_account: str = "",
    wait: tyro.conf.FlagCreatePairsOff[bool] = False,
    keep_going: KeepGoing = 0,
    junit: Path | None = None,
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False,
    plan_only: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """Start a run on a cluster; SPPO_KFP_TOKEN or SPPO_KFP_COOKIE in the environment sign in.

    Args:
        host: Kubeflow Pipelines, such as https://kubeflow.example.org/pipeline.
        overrides: Values of the configuration, such as train.eta=500, and of the hardware, such as training_gpus=8.
        preset: The values that the rest is laid over.
        config_file: A YAML file of values, laid over the preset.
        experiment: The experiment in Kubeflow Pipelines, and in MLflow unless an override names another there.
        namespace: Your profile's namespace, where Kubeflow has users.
        max_iterations: The most iterations that the package can play.
        profile: Defaults of the hardware parameters: a shipped profile's name, or a YAML file. If empty: cpu for the
            preset cpu, whose models are in the image cpu alone, else one-gpu.
        images: A YAML file of images by stage, instead of the released ones.
        service_account: The pods' service account; the server's default if empty.
        wait: Follow the run to its end, and exit with 0, or 2, 3 or 4 if it failed, or 5 if its gate is not passed.
        keep_going: With --wait, how often to resume the run when infrastructure ends it.
        junit: With --wait, a JUnit report to write.
        dry_run: Check everything that can be checked here and print it; send nothing.
        plan_only: Say what is in the run's place, and what a changed value redoes; send nothing.
    """
    from sppo_pipelines.compiling import tell_unpublished
    from sppo_pipelines.profile import usual_profile
    from sppo_pipelines.submission import commands, package
    from sppo_pipelines.submission.client import Client
    from sppo_pipelines.submission.resume import Resumed

    check_wait(wait, keep_going, junit)
    values = collect_values(preset, config_file, overrides, package.kinds_of_keys())
    if experiment:
        values.setdefault("experiment", experiment)
    client = Client(host, namespace)
    profile = profile or usual_profile(str(values.get("preset", "cpu")))
    compiled = package.compile_package(max_iterations, profile, images)
    if dry_run:
        commands.show_plan(values, compiled)
        return
    commands.show_work(values, compiled)
    if plan_only:
        return
    tell_unpublished(profile, images)
    run_id = commands.submit(client, values, compiled, experiment, service_account)["run_id"]
    if wait:
        commands.wait(client, Resumed(run_id), junit, keep_going)


def check_wait(wait: bool, keep_going: int, junit: Path | None) -> None:
    """Refuse what needs the end of a run, of a command that does not wait for it.

    Raises:
        ConfigError: naming the flag.
    """
    if junit and not wait:
        raise ConfigError("--junit reports a run's end: give --wait too")
    if junit and junit.is_dir():
        raise ConfigError(f"--junit: {junit}: a folder; give a file")
    if keep_going and not wait:
        raise ConfigError("--keep-going resumes a run at its end: give --wait too")
    if keep_going < 0:
        raise ConfigError(f"--keep-going: {keep_going} is less than 0")


def resume_there(run: str, host: str, wait: bool, keep_going: int, junit: Path | None) -> None:
    """Go on with a run on a cluster.

    Args:
        run: its id.
        host: address of the server.
        wait: whether to follow it to its end.
        keep_going: how often to resume it when infrastructure ends it; then one too large to retry is submitted anew.
        junit: a JUnit report to write.
    """
    from sppo_pipelines.submission import commands
    from sppo_pipelines.submission.client import Client
    from sppo_pipelines.submission.resume import resume
    from sppo_pipelines.submission.run import look

    client = Client(host)
    before = look(client, _run_id(run))
    print(f"run:     {client.run_url(run)}", flush=True)
    resumed = resume(client, before, anew=keep_going > 0)
    if wait:
        commands.wait(client, resumed, junit, keep_going)


def _run_id(text: str) -> str:
    if not re.fullmatch(r"[\w-]+", text):
        raise ConfigError(f"{text}: with --host, give the id of a run, the last part of its page's address")
    return text


def logs(
    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_ID")],
    stage: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[STAGE]")] = "",
    *,
    host: Host,
    iteration: int | None = None,
    shard: int | None = None,
    follow: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """Print what a stage of a run on a cluster printed, or list the tasks that may be meant.

    Args:
        run: The id of the run, the last part of its page's address.
        stage: Such as train; without one, that of what failed.
        host: Kubeflow Pipelines, such as https://kubeflow.example.org/pipeline.
        iteration: Only of this iteration.
        shard: Only of this shard, from 0.
        follow: Go on until the task ends.
    """
    from sppo_pipelines.submission.client import Client
    from sppo_pipelines.submission.logs import show_logs

    show_logs(Client(host), _run_id(run), stage, iteration, shard, follow)


def keep_going(host: Host, namespace: str = "", times: int = 3, hours: float = 24) -> None:
    """Look once at the runs that failed on a cluster, and resume those that infrastructure ended.

    Args:
        host: Kubeflow Pipelines, such as http://ml-pipeline.kubeflow:8888.
        namespace: Whose runs, where Kubeflow has users.
        times: How often a run is resumed at most; its store keeps the count.
        hours: How long ago a run may have failed.
    """
    from sppo_pipelines.submission.client import Client
    from sppo_pipelines.submission.keep_going import look_once

    if times < 0 or not 0 < hours <= MOST_HOURS:
        raise ConfigError(f"--times must not be negative, and --hours must be above 0 and at most {MOST_HOURS:,}")
    look_once(Client(host, namespace), times, hours)

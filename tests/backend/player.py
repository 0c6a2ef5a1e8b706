"""Playing a package: the API server's workflow of it, run by Argo with drivers and stages."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tests.backend import argo, pods
from tests.backend.api_server import root_inputs
from tests.backend.argo import Dag, Node, Step, Task
from tests.backend.drivers import Driven, drive_container, drive_dag, drive_root
from tests.backend.metadata import Execution, Metadata
from tests.backend.package import Package, Spec, dependencies, is_exit_task, stage
from tests.backend.plugin import MLflowPlugin
from tests.backend.pods import Pod
from tests.backend.resolve import Options, RunNames
from tests.backend.values import BackendError

Outputs = Mapping[str, Any] | Callable[[Pod], Mapping[str, Any]]
"""The output parameters of a stage's container: the same in each pod, or by pod."""
STAGE_ROUNDS = 10
"""How much longer than a driver a stage takes; drivers beside one another must end before any stage does."""


class Run(NamedTuple):
    """A run that came to its end.

    Of the nodes a pod is two (Retry and Pod), and so is a DAG (Retry and DAG). So a container's task is six: its
    driver, a DAG, its pod. A nested pipeline or a branch is four and what it holds, a branch that is not taken three, a
    loop five and six for each iteration. A task that depends on one which was skipped is two.

    Attributes:
        pods: of the stages, in the order in which they were made.
        nodes: that Argo keeps of a run in which each pod needed one attempt; a further attempt is one more.
        executions: of ML Metadata.
    """

    pods: list[Pod]
    nodes: list[Node]
    executions: list[Execution]

    def of(self, stage: str) -> list[Pod]:
        """The pods of a stage."""
        return [pod for pod in self.pods if pod.stage == stage]


def play(
    package: Package,
    parameters: Mapping[str, Any],
    outputs: Mapping[str, Outputs],
    plugin: MLflowPlugin | None = None,
    run: RunNames | None = None,
) -> Run:
    """Play a package to its end.

    Args:
        package: the compiled package.
        parameters: of the run, as the API takes them.
        outputs: by the name of a component, what its container puts out; output artifacts need no mention.
        plugin: the MLflow plugin, if the cluster has it.
        run: the run's names.

    Raises:
        BackendError: with the words of whichever part of the cluster refuses something.
    """
    player = _Player(package, root_inputs(package, parameters), outputs, plugin, run or RunNames())
    player.workflow.run(player.run.name, Dag(player.entrypoint))
    return Run(player.pods, player.workflow.nodes, player.store.executions)


class _Driver:
    """A driver's pod, and what it leaves for the tasks after it."""

    def __init__(self, drive: Callable[[], Driven]) -> None:
        self._drive = drive
        self.left: Driven

    def step(self) -> Step:
        return Step("driver", self._work)

    def _work(self) -> None:
        self.left = self._drive()


class _Player:
    """A run of a package: argocompiler/dag.go writes the workflow that this plays."""

    def __init__(
        self,
        package: Package,
        parameters: dict[str, Any],
        outputs: Mapping[str, Outputs],
        plugin: MLflowPlugin | None,
        run: RunNames,
    ) -> None:
        self.package = package
        self.parameters = parameters
        self.outputs = outputs
        self.plugin = plugin
        self.run = run
        self.store = Metadata()
        self.workflow = argo.Workflow()
        self.pods: list[Pod] = []

    def entrypoint(self) -> list[Task]:
        """The root's driver and the root: argocompiler/dag.go:150-181."""
        driver = _Driver(lambda: drive_root(self.store, self.parameters))
        root = Dag(lambda: self._tasks(self.package.root, driver.left.execution))
        return [Task("root-driver", driver.step()), Task("root", root, ["root-driver"])]

    def _tasks(self, component: Spec, parent: Execution) -> list[Task]:
        """The tasks of a DAG; exit tasks run after those that they depend on: argocompiler/dag.go:49-138."""
        tasks = component["dag"]["tasks"]
        on_exit = {
            before: Dag(lambda name=name: self._task(name, tasks[name], tasks, parent))
            for name in sorted(tasks)
            if is_exit_task(tasks[name])
            for before in tasks[name].get("dependentTasks", [])
        }
        return [
            each
            for name in sorted(tasks)
            if not is_exit_task(tasks[name])
            for each in self._task(name, tasks[name], tasks, parent, on_exit=on_exit.get(name))
        ]

    def _task(
        self, name: str, task: Spec, tasks: Mapping[str, Spec], parent: Execution, on_exit: Dag | None = None
    ) -> list[Task]:
        """A task's own: its driver, and what that drives. argocompiler/dag.go:223-358."""
        depends = [] if is_exit_task(task) else dependencies(task, tasks)
        options = Options(name, task, self.package.component(task), parent, run=self.run)
        if "parameterIterator" in task:
            return [Task(name, Dag(lambda: self._loop(options)), depends)]
        return self._driven(name, options, depends, on_exit)

    def _driven(self, name: str, options: Options, depends: list[str], on_exit: Dag | None = None) -> list[Task]:
        """A driver, and what it triggers: a DAG, or a container, which has a DAG around it.

        argocompiler/container.go:425-448.
        """
        if "dag" in options.component:
            driver = _Driver(lambda: drive_dag(self.store, options))
            template = Dag(lambda: self._tasks(options.component, driver.left.execution))
        else:
            driver = _Driver(lambda: drive_container(self.package, self.store, options, self.plugin))
            template = Dag(lambda: [Task("executor", self._stage(options, driver))])
        conditional = bool(options.task.get("triggerPolicy", {}).get("condition"))
        when = (lambda: driver.left.triggered) if conditional else None
        driven = Task(name, template, [f"{name}-driver"], when, on_exit=on_exit)
        return [Task(f"{name}-driver", driver.step(), depends), driven]

    def _loop(self, options: Options) -> list[Task]:
        """A loop: its driver, and a sequence of iterations that each have one. argocompiler/dag.go:360-488."""
        driver = _Driver(lambda: drive_dag(self.store, options))

        def iteration(index: int) -> Dag:
            item = options._replace(parent=driver.left.execution, index=index)
            return Dag(lambda: self._driven("iteration-item", item, []))

        return [
            Task("iteration-driver", driver.step()),
            Task(
                "iteration-iterations",
                iteration,
                ["iteration-driver"],
                when=lambda: driver.left.triggered,
                count=lambda: driver.left.execution.count or 0,
            ),
        ]

    def _stage(self, options: Options, driver: _Driver) -> Step:
        """A stage's pod."""
        return Step(stage(options.component), lambda: self._launch(options, driver.left), STAGE_ROUNDS)

    def _launch(self, options: Options, driven: Driven) -> None:
        """Make a stage's pod, and publish what it puts out: component/launcher_v2.go:178-320,375-515,1310-1331."""
        execution = driven.execution
        asked = self.package.on_kubernetes(options.component)
        template_env = self.plugin.template_env() if self.plugin else []
        assert driven.patch is not None
        defaults = {name: spec["defaultValue"] for name, spec in options.inputs.items() if "defaultValue" in spec}
        pod = Pod(
            stage(options.component),
            execution.path,
            {**defaults, **driven.inputs.parameters},
            driven.inputs.artifacts,
            pods.labels(asked, self.run.id),
            pods.annotations(asked),
            pods.make_pod(execution.path, driven.patch.spec, template_env, "retryPolicy" in options.task),
            pods.retry_strategy(options.task),
        )
        self.pods.append(pod)
        given = self.outputs.get(pod.stage, {})
        execution.outputs = dict(given(pod) if callable(given) else given)
        declared = options.component.get("outputDefinitions", {})
        for name in declared.get("parameters", {}):
            if name not in execution.outputs:
                raise BackendError(f'failed to read output parameter name="{name}": no such file or directory')
        for name in declared.get("artifacts", {}):
            uri = f"s3://mlpipeline/v2/artifacts/{self.run.id}/{execution.path}/{execution.id}/{name}"
            execution.output_artifacts[name] = self.store.add_artifact(uri)
        execution.state = "COMPLETE"
        self.store.update_states(options.parent)

"""The ways a stage can fail, and the exit code that each of them has on the command line and in a pod."""


class SppoError(Exception):
    """A failure whose message is written for the person who reads it: one line, naming the thing and the mend."""

    exit_code = 4


class ConfigError(SppoError, ValueError):
    """The input is wrong (configuration, prompts, model folder): running again without a change cannot help."""

    exit_code = 2


class InfrastructureError(SppoError):
    """The store, the network or a server failed: running again may help."""

    exit_code = 3


class RunFailedError(SppoError):
    """A stage of the run failed."""

    exit_code = 4


class GateFailedError(SppoError):
    """The run ended, but its best model does not meet the quality gate."""

    exit_code = 5

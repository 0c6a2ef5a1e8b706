"""The ways a stage can fail, and the exit code that each of them has on the command line and in a pod."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
_NO_NAME = {errno.ENAMETOOLONG, errno.ELOOP}
_NO_PLACE = _NO_ROOM | {errno.ENOTDIR, errno.EISDIR, errno.EEXIST}


class SppoError(Exception):
    """A failure whose message is written for the person who reads it: one line, naming the thing and the mend.

    Args:
        message: the line. What it quotes may span lines, and does not then.
        lines: what somebody else said of it, such as the end of a log, to stand below.
    """

    exit_code = 4

    def __init__(self, message: str, *lines: str) -> None:
        super().__init__("\n  ".join([message.replace("\n", "\\n"), *lines]))


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


KINDS: dict[int, type[SppoError]] = {kind.exit_code: kind for kind in (ConfigError, InfrastructureError)}
"""What a stage's exit code says of the whole run; with any other the run has failed."""


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turn a full or forbidden file system, a file in a folder's place, or a path that none can have into one line.

    Raises:
        InfrastructureError, ConfigError: naming the path.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_NAME:
            raise ConfigError(f"{error.filename}: {error.strerror}; give another path") from error
        if error.errno not in _NO_PLACE:
            raise
        raise InfrastructureError(
            f"{error.filename or 'output_uri'}: {error.strerror}; free or allow that place"
        ) from error

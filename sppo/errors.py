"""The ways a stage can fail, and the exit code that each of them has on the command line and in a pod."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE}
_NO_PLACE = {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP}


class SppoError(Exception):
    """A failure whose message is written for the person who reads it: one line, naming the thing and the mend.

    Args:
        message: the line. What it quotes may span lines, and does not then.
        lines: what somebody else said of it, such as the end of a log, to stand below.
    """

    exit_code = 4
    word = "error"
    """What a line begins with that tells it."""

    def __init__(self, message: str, *lines: str) -> None:
        super().__init__("\n  ".join([message.replace("\n", "\\n"), *lines]))

    def __reduce__(self) -> tuple[Any, ...]:
        """What makes it again in another process; its lines are still lines there."""
        return type(self), tuple(str(self).split("\n  ")), self.__dict__


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
    word = "not passed"


KINDS: dict[int, type[SppoError]] = {kind.exit_code: kind for kind in (ConfigError, InfrastructureError)}
"""What a stage's exit code says of the whole run; with any other the run has failed."""


def one_line(error: BaseException) -> str:
    """What an exception of a library says, on one line and without a password; its name where it says nothing."""
    return without_password(" ".join(str(error).split())) or type(error).__name__


def without_password(text: str) -> str:
    """A text in which addresses do not tell their user and password."""
    return re.sub(r"//[^/\s]*@", "//", text)


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turn what a file system refuses into one line that names the path.

    Raises:
        ConfigError: for a path that cannot be: a file in a folder's place, a name that is too long.
        InfrastructureError: for a place that is full, forbidden or broken.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_PLACE and error.filename:
            raise ConfigError(f"{error.filename}: {error.strerror}; give another path") from error
        if error.errno not in _NO_ROOM:
            raise
        place = error.filename or "the disk of output_uri, of the cache or of TMPDIR"
        raise InfrastructureError(f"{place}: {error.strerror}; free or allow that place") from error

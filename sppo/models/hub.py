"""The Hugging Face hub: how what lies there is written, and what its library raises, in one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sppo.errors import ConfigError, InfrastructureError, SppoError, one_line

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

_PAGE = re.compile(
    r"(?:hf://)?(?:https?://(?:www\.)?(?:huggingface\.co|hf\.co)/|(?=(?:datasets|models)/))(?:datasets/|models/)?"
    r"(?P<name>[^/?#]+/[^/?#]+)(?:/(?P<part>tree|blob|resolve|viewer)/(?P<rest>[^?#]+))?"
)
_FOR_A_WHILE = {408, 425, 429}
"""Statuses of requests that may be answered later, as those from 500 on may be."""


def refuse_page(uri: str) -> None:
    """Refuse the address of a page of the hub, as a browser shows it, and a repository with its kind before it.

    Raises:
        ConfigError: with what to write instead.
    """
    found = _PAGE.match(uri)
    if found is None or not uri.startswith(("hf://", "http")):
        return
    meant = f"hf://{found['name']}"
    if found["part"] == "viewer":
        meant += f":{found['rest'].strip('/')}"
    elif found["part"]:
        meant += f"@{found['rest'].partition('/')[0]}"
    raise ConfigError(f"{uri}: the address of a page of the Hugging Face hub; write {meant}")


@contextmanager
def hub_errors(uri: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into one line that names what was asked for.

    Raises:
        ConfigError: if there is no such repository, revision or file, or it may not be read.
        InfrastructureError: if the hub cannot be reached, or does not answer now.
    """
    from huggingface_hub import errors as hub

    try:
        yield
    except hub.HFValidationError as error:
        raise ConfigError(f"{uri}: {one_line(error)}; write hf://org/name, or hf://org/name@revision") from error
    except hub.LocalEntryNotFoundError as error:
        if isinstance(error.__cause__, hub.HfHubHTTPError):  # it was reached, and did not give what it was asked for
            raise _refused(uri, error.__cause__) from error
        raise InfrastructureError(
            f"{uri}: not in the local cache and the hub cannot be reached; download it first, or give a folder or file"
        ) from error
    except hub.GatedRepoError as error:
        raise ConfigError(f"{uri}: gated; ask for access on its page of the hub, and set HF_TOKEN") from error
    except hub.RepositoryNotFoundError as error:
        raise ConfigError(
            f"{uri}: no such repository on the hub; check its name, or set HF_TOKEN if private"
        ) from error
    except hub.RevisionNotFoundError as error:
        raise ConfigError(f"{uri}: no such revision on the hub; name a branch, a tag or a commit of it") from error
    except hub.HfHubHTTPError as error:
        raise _refused(uri, error) from error
    except (hub.OfflineModeIsEnabled, hub.HTTPError, ConnectionError) as error:  # HTTPError: of the client beneath
        raise InfrastructureError(f"{uri}: the hub cannot be reached ({one_line(error)})") from error


def _refused(uri: str, error: HfHubHTTPError) -> SppoError:
    status = error.response.status_code
    kind = InfrastructureError if status >= 500 or status in _FOR_A_WHILE else ConfigError
    return kind(f"{uri}: {one_line(error)}")

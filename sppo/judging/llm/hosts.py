"""Where the key of an endpoint may go: to hosts that the environment names, encrypted; never where only a run says."""

from __future__ import annotations

import ipaddress
import os
import re

from urllib3.exceptions import LocationParseError
from urllib3.util import Url, parse_url

from sppo.errors import ConfigError

HOSTS = "SPPO_JUDGE_HOSTS"
"""Environment variable with the hosts that get the key: `host[:port]`, several with commas."""
_PORTS = {"http": 80, "https": 443}


def check_key_may_go(url: str, named_by: str, key: str) -> None:
    """Refuse to send a key to a host that the environment does not name, or over a network unencrypted.

    Args:
        url: where it would go.
        named_by: the setting that holds the address, for messages.
        key: the environment variable that holds the key, for messages.

    Raises:
        ConfigError: if it may not go there.
    """
    try:
        parts = parse_url(url)  # as urllib3 takes it apart to connect: another parser may see another host
    except LocationParseError as error:
        raise ConfigError(f"{named_by}: {url} is no address such as https://host/v1") from error
    if is_loopback(parts):
        return
    place = _place(parts)
    allowed = _allowed()
    if place not in {entry if _has_port(entry) else f"{entry}:443" for entry in allowed}:
        short = place.removesuffix(":443")
        raise ConfigError(
            f"{named_by}: {key} does not go to {short}, which {HOSTS} does not name; here: "
            f"export {HOSTS}={','.join([*allowed, short])}; on a cluster: the key {HOSTS} of the ConfigMap "
            f"sppo-settings; an endpoint without a key needs {key} unset"
        )
    if parts.scheme != "https":
        raise ConfigError(f"{named_by}: {key} goes by https only; write https://{place}, or unset {key}")


def is_loopback(parts: Url) -> bool:
    """Whether an address is this machine."""
    host = (parts.host or "").strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _place(parts: Url) -> str:
    return f"{parts.host}:{parts.port or _PORTS[parts.scheme or 'https']}"


def _allowed() -> list[str]:
    entries = [entry.strip().lower() for entry in os.environ.get(HOSTS, "").split(",")]
    wrong = [entry for entry in entries if entry and not re.fullmatch(r"(\[[0-9a-f:.]+\]|[\w.-]+)(:\d{1,5})?", entry)]
    if wrong:
        raise ConfigError(f"{HOSTS}: {wrong[0]!r} is not written host or host:port; correct it")
    return [entry for entry in entries if entry]


def _has_port(entry: str) -> bool:
    return re.search(r":\d+$", entry.rpartition("]")[2]) is not None

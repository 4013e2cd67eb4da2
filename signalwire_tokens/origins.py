"""Where something is reached: a scheme, a host and a port, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Address, ip_address
from typing import NamedTuple, cast

from .errors import ConfigurationError

__all__ = ["USUAL_PORTS", "Place", "check_origins", "is_loopback", "read_place", "write_origin"]

LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
FORM = re.compile(
    rf"(?:(?P<scheme>https?)://)?(?P<host>{LABEL}(?:\.{LABEL})*|\[[0-9a-f:]+\])(?::(?P<port>[0-9]{{1,5}}))?", re.ASCII
)
PORTS = range(1, 65536)
USUAL_PORTS = {"http": 80, "https": 443}
LOOPBACK = (IPv4Network("127.0.0.0/8"), IPv6Address("::1"))


class Place(NamedTuple):
    """A host, and what was said of the way to it."""

    scheme: str | None
    host: str
    port: int | None


def read_place(text: str) -> Place | None:
    """Return the scheme, host and port of a host or an origin, or None if the text is anything else.

    Blanks around it, and one slash at its end, are ignored.
    """
    found = FORM.fullmatch(text.strip().removesuffix("/").lower())
    if found is None or (found["port"] and int(found["port"]) not in PORTS) or not is_host(found["host"]):
        return None
    return Place(found["scheme"], found["host"], int(found["port"]) if found["port"] else None)


def is_host(host: str) -> bool:
    """Tell whether what stands in brackets is an address; the pattern has seen to everything else."""
    if not host.startswith("["):
        return True
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine itself."""
    if host == "localhost":
        return True
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return False
    return address == LOOPBACK[1] if isinstance(address, IPv6Address) else address in LOOPBACK[0]


def write_origin(scheme: str, host: str, port: int | None) -> str:
    """Write an origin as browsers do: an IPv6 address in its short form, and the scheme's usual port left out."""
    place = f"[{ip_address(host.strip('[]')).compressed}]" if ":" in host else host
    return f"{scheme}://{place}" + ("" if port in (None, USUAL_PORTS.get(scheme)) else f":{port}")


def check_origins(name: str, origins: object) -> frozenset[str]:
    """Take a list of exact origins, or refuse it. Plain http is for this machine's own addresses alone."""
    if isinstance(origins, str | bytes) or not isinstance(origins, Iterable):
        raise ConfigurationError(f"{name} must be a list of origins, such as ['https://app.example.com']")
    return frozenset(check_origin(name, origin) for origin in cast("Iterable[object]", origins))


def check_origin(name: str, origin: object) -> str:
    """Take one exact origin."""
    place = read_place(origin) if isinstance(origin, str) else None
    if place is None or place.scheme is None:
        message = (
            "must be exact, such as 'https://app.example.com': scheme and host, in ASCII, with no path, and no wildcard"
        )
        raise ConfigurationError(f"{name} {message}")
    if place.scheme == "http" and not is_loopback(place.host):
        raise ConfigurationError(f"{name} must be https, but for this machine's own addresses")
    return write_origin(place.scheme, place.host, place.port)

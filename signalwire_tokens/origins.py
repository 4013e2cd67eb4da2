"""Origins: a scheme, a host and a port, without user, path or query.

Settings of the library (spaces, embed origins, backends, CORS origins) all follow the rules of this module. `http` is
allowed only for this machine's own addresses (localhost, 127.0.0.0/8, ::1), because requests carry credentials.
`read_place` accepts both schemes; its callers refuse `http` and name the setting in their error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Address, ip_address
from typing import NamedTuple, cast

from .errors import ConfigurationError

__all__ = ["HTTP_ALLOWED", "USUAL_PORTS", "Place", "check_origins", "is_loopback", "read_place", "write_origin"]

LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
FORM = re.compile(
    rf"(?:(?P<scheme>https?)://)?(?P<host>{LABEL}(?:\.{LABEL})*|\[[0-9a-f:]+\])(?::(?P<port>[0-9]{{1,5}}))?", re.ASCII
)
PORTS = range(1, 65536)
HTTP_ALLOWED = "http is allowed only for localhost, 127.0.0.0/8 and ::1"
USUAL_PORTS = {"http": 80, "https": 443}
LOOPBACK = (IPv4Network("127.0.0.0/8"), IPv6Address("::1"))


class Place(NamedTuple):
    """The parts of a host or an origin. `scheme` and `port` are None if the text doesn't name them."""

    scheme: str | None
    host: str
    port: int | None


def read_place(text: str) -> Place | None:
    """Return the parts of a host or an origin, in lower case, or None if the text is anything else.

    Blanks around the text, and one slash at its end, are ignored. `acme.signalwire.com:443` gives a host and a port,
    without a scheme. `https://user@acme.signalwire.com` gives None.
    """
    found = FORM.fullmatch(text.strip().removesuffix("/").lower())
    if found is None or (found["port"] and int(found["port"]) not in PORTS) or not is_host(found["host"]):
        return None
    return Place(found["scheme"], found["host"], int(found["port"]) if found["port"] else None)


def is_host(host: str) -> bool:
    """Return whether a host is valid: `FORM` has checked names, but not the address between the brackets of IPv6."""
    if not host.startswith("["):
        return True
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine itself: localhost, 127.0.0.0/8 or ::1. No name is resolved."""
    if host == "localhost":
        return True
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return False
    return address == LOOPBACK[1] if isinstance(address, IPv6Address) else address in LOOPBACK[0]


def write_origin(scheme: str, host: str, port: int | None) -> str:
    """Return an origin as browsers write it, so that equal origins are equal strings.

    An IPv6 address has its short form, and the scheme's usual port is left out.
    """
    place = f"[{ip_address(host.strip('[]')).compressed}]" if ":" in host else host
    return f"{scheme}://{place}" + ("" if port in (None, USUAL_PORTS.get(scheme)) else f":{port}")


def check_origins(name: str, origins: object) -> frozenset[str]:
    """Return a list of exact origins as a set, or raise a `ConfigurationError` that names the setting `name`.

    A plain string is refused, because its characters would count as origins. `http` is accepted only for this machine's
    own addresses.
    """
    if isinstance(origins, str | bytes) or not isinstance(origins, Iterable):
        raise ConfigurationError(f"{name} must be a list of origins, such as ['https://app.example.com']")
    return frozenset(check_origin(name, origin) for origin in cast("Iterable[object]", origins))


def check_origin(name: str, origin: object) -> str:
    """Return one exact origin as browsers write it, or raise a `ConfigurationError`."""
    place = read_place(origin) if isinstance(origin, str) else None
    if place is None or place.scheme is None:
        message = (
            "must be exact origins, such as 'https://app.example.com': scheme and host in ASCII, without a path or "
            "a wildcard"
        )
        raise ConfigurationError(f"{name} {message}")
    if place.scheme == "http" and not is_loopback(place.host):
        raise ConfigurationError(f"{name} must use https; {HTTP_ALLOWED}")
    return write_origin(place.scheme, place.host, place.port)

"""Why a connection failed, in words, and what to check. aiohttp's own texts aren't used: they may quote the answer."""

from __future__ import annotations

import os
import socket
import ssl as tls
from typing import NamedTuple

import aiohttp

from .credentials import without_tracebacks

__all__ = ["NETWORK", "Reason", "network_reason", "system_error"]

NETWORK = "check the network, and any proxy or firewall"
TRUST = (
    "check which certificates this machine trusts. For a certificate of your own, pass ssl=…, or set "
    "SIGNALWIRE_REST_CA_FILE for TokenClient.from_env()"
)
# By OpenSSL's number of what is wrong with a certificate (X509_V_ERR_…). Any other number means "not trusted".
CERTIFICATES = {
    9: ("certificate not valid yet", "check this machine's clock"),
    10: ("certificate expired", "check this machine's clock, and the server's certificate"),
    62: ("certificate for another host", "check {setting}, and any proxy"),
    64: ("certificate for another host", "check {setting}, and any proxy"),
}


class Reason(NamedTuple):
    """Why a connection failed, and what to check. `{setting}` in the advice stands for where the host was set."""

    text: str
    advice: str


def network_reason(error: Exception, cause: OSError | None) -> Reason:
    """Return the reason for one of aiohttp's errors. `cause` is the error of the system behind it, or None."""
    match error:
        case aiohttp.ClientHttpProxyError():
            return Reason(f"the proxy answered {error.status}", "check the proxy, and the credentials in its URL")
        case aiohttp.ClientProxyConnectionError() if cause is not None:
            return Reason(f"the proxy: {system_reason(cause).text}", "check the proxy")
        case aiohttp.ClientResponseError():
            return Reason("the answer isn't HTTP", "check {setting}, and any proxy")
        case aiohttp.ClientPayloadError():
            return Reason("the answer broke off, or can't be decoded", NETWORK)
        case aiohttp.ServerDisconnectedError():
            return Reason("closed without an answer", NETWORK)
        case aiohttp.ClientConnectorDNSError():
            return Reason("name not resolved", "check {setting}, and this machine's DNS")
        case _:
            return system_reason(error if cause is None else cause)


def system_reason(error: Exception) -> Reason:
    """Return the reason for an error of the operating system or of TLS."""
    match error:
        case socket.gaierror():
            return Reason("name not resolved", "check {setting}, and this machine's DNS")
        case ConnectionRefusedError():
            return Reason("connection refused", "check {setting}, and any firewall")
        case ConnectionResetError() | ConnectionAbortedError() | BrokenPipeError():
            return Reason("connection reset", NETWORK)
        case tls.SSLCertVerificationError():
            return Reason(*CERTIFICATES.get(error.verify_code, ("certificate not trusted", TRUST)))
        case tls.SSLError():
            found = getattr(error, "reason", None)  # such as WRONG_VERSION_NUMBER; an error made in Python lacks it
            return Reason(f"TLS failed, {found}" if found else "TLS failed", "check {setting}, and any proxy")
        case OSError() if error.errno is not None:
            return Reason(os.strerror(error.errno).lower(), NETWORK)
        case _:
            return Reason(type(error).__name__, NETWORK)


def system_error(error: Exception) -> OSError | None:
    """Return the error of the operating system or of TLS behind one of aiohttp's, without its frames, or None."""
    found: Exception | None = None
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        found = error.certificate_error
    elif isinstance(error, aiohttp.ClientConnectorError):
        found = error.os_error
    if isinstance(found, OSError):
        without_tracebacks(found)
        return found
    if isinstance(error, OSError) and error.errno is not None:
        return OSError(error.errno, error.strerror)
    return None

"""Why a connection failed, in words, and what to check."""

import errno
import socket
import ssl

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey

from signalwire_tokens.client.reasons import network_reason, system_error

KEY = ConnectionKey("acme.signalwire.com", 443, True, None, None, None, None)


def refused_certificate(code):
    """Return an error for a certificate, with OpenSSL's number of what is wrong with it."""
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code = code
    return aiohttp.ClientConnectorCertificateError(KEY, error)


def failed(os_error, kind=aiohttp.ClientConnectorError):
    return kind(KEY, os_error)


def tls_error(reason):
    error = ssl.SSLError(1, "wrong")
    error.reason = reason
    return aiohttp.ClientConnectorSSLError(KEY, error)


@pytest.mark.parametrize(
    ("error", "text", "checks"),
    [
        (failed(socket.gaierror(-2, "unknown"), aiohttp.ClientConnectorDNSError), "name not resolved", "{setting}"),
        (failed(OSError(None, "aiodns"), aiohttp.ClientConnectorDNSError), "name not resolved", "{setting}"),
        (failed(socket.gaierror(-2, "unknown")), "name not resolved", "DNS"),
        (failed(ConnectionRefusedError(errno.ECONNREFUSED, "no")), "connection refused", "{setting}"),
        (failed(OSError(errno.EHOSTUNREACH, "no")), "no route to host", "network"),
        (failed(OSError("Multiple exceptions")), "OSError", "network"),
        (aiohttp.ClientOSError(errno.ECONNRESET, "reset"), "connection reset", "network"),
        (ConnectionResetError("without a number"), "connection reset", "network"),
        (refused_certificate(9), "certificate not valid yet", "clock"),
        (refused_certificate(10), "certificate expired", "clock"),
        (refused_certificate(20), "certificate not trusted", "SIGNALWIRE_REST_CA_FILE"),
        (refused_certificate(62), "certificate for another host", "{setting}"),
        (refused_certificate(64), "certificate for another host", "{setting}"),
        (tls_error("WRONG_VERSION_NUMBER"), "TLS failed, WRONG_VERSION_NUMBER", "{setting}"),
        (tls_error(None), "TLS failed", "{setting}"),
        (
            failed(ConnectionRefusedError(errno.ECONNREFUSED, "no"), aiohttp.ClientProxyConnectionError),
            "the proxy: connection refused",
            "proxy",
        ),
        (aiohttp.ClientHttpProxyError(None, (), status=407), "the proxy answered 407", "credentials in its URL"),
        (aiohttp.ClientResponseError(None, (), message="hush"), "the answer isn't HTTP", "{setting}"),
        (aiohttp.ClientPayloadError("hush"), "the answer broke off, or can't be decoded", "network"),
        (aiohttp.ServerDisconnectedError("hush"), "closed without an answer", "network"),
        (aiohttp.ClientConnectionError("hush"), "ClientConnectionError", "network"),
    ],
)
def test_a_failed_connection_has_a_reason_and_an_advice(error, text, checks):
    """Both are in words, and neither quotes aiohttp's own text."""
    reason = network_reason(error, system_error(error))
    assert reason.text.lower() == text.lower()
    assert checks in reason.advice

"""SignalWire's operations as data, without I/O.

A function such as `create_subscriber_token(…)` checks its arguments and returns a `Request`. The client sends it, and
builds an `Answer` from the status, headers and body that come back. `read(request, answer)` returns a model or an
error. Nothing here sends, waits or reads a clock, so tests need no network and no patched time.

==============  =====================================================================
module          what it has
==============  =====================================================================
`exchange`      `Request` and `Answer`
`requests`      a function for each of SignalWire's operations
`backend`       the request to your app's backend, and its answer
`checks`        checks of arguments
`space`         checks of a client's settings
`answers`       success or error; whether to repeat a request
`codes`         SignalWire's error codes
`readers`       the bodies of successful answers
`successors`    whether a new pair can replace the current one
`hints`         the rate limit that an answer reports
`lifetimes`     durations and lifetimes as text
==============  =====================================================================
"""

from signalwire_tokens.token_header import Header, read_header

from .answers import pause_before_retry, read
from .backend import add_headers, check_endpoint, fetch_token
from .codes import TOKEN_EXPIRED, Subject, about
from .exchange import Answer, Auth, Request
from .hints import read_hint
from .lifetimes import read_lifetimes
from .readers import Page
from .requests import (
    DEVICE_EXCHANGE,
    DEVICE_REFRESH,
    TokenFields,
    When,
    address,
    addresses,
    create_device_token,
    create_embed_token,
    create_guest_token,
    create_invite_token,
    create_subscriber_token,
    mask,
    refresh_device_token,
    refresh_subscriber_token,
    subscriber_addresses,
    subscriber_info,
    with_secrets_hidden,
)
from .space import basic_authorization, check_client_settings, is_api_token, is_credential
from .successors import accepting_only_successor

__all__ = [
    "DEVICE_EXCHANGE",
    "DEVICE_REFRESH",
    "TOKEN_EXPIRED",
    "Answer",
    "Auth",
    "Header",
    "Page",
    "Request",
    "Subject",
    "TokenFields",
    "When",
    "about",
    "accepting_only_successor",
    "add_headers",
    "address",
    "addresses",
    "basic_authorization",
    "check_client_settings",
    "check_endpoint",
    "create_device_token",
    "create_embed_token",
    "create_guest_token",
    "create_invite_token",
    "create_subscriber_token",
    "fetch_token",
    "is_api_token",
    "is_credential",
    "mask",
    "pause_before_retry",
    "read",
    "read_header",
    "read_hint",
    "read_lifetimes",
    "refresh_device_token",
    "refresh_subscriber_token",
    "subscriber_addresses",
    "subscriber_info",
    "with_secrets_hidden",
]

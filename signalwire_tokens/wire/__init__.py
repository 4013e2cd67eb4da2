"""The service's operations as data: requests out; (status, headers, body) in, a model or an error out.

Nothing here sends, waits or reads a clock. `checks` finds what is wrong with arguments, `space` with settings;
`requests` describes each operation, and `backend` what an application's backend is asked; `answers` tells success from
refusal, `codes` what a refusal is about, and `readers` what a success holds; `hints` reads what both report about the
rate limit; `header` reads what a token says openly, and `lifetimes` how long tokens live by the settings. `exchange` is
what a request and an answer are.
"""

from .answers import pause_before_retry, read
from .backend import add_headers, check_endpoint, fetch_token
from .codes import TOKEN_EXPIRED, About, about
from .exchange import Answer, Auth, Request
from .header import Header, read_header
from .hints import read_hint
from .lifetimes import read_lifetimes
from .readers import Page
from .requests import (
    DEVICE_EXCHANGE,
    DEVICE_REFRESH,
    When,
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
)
from .space import basic_authorization, check_settings, is_credential
from .successors import replacing

__all__ = [
    "DEVICE_EXCHANGE",
    "DEVICE_REFRESH",
    "TOKEN_EXPIRED",
    "About",
    "Answer",
    "Auth",
    "Header",
    "Page",
    "Request",
    "When",
    "about",
    "add_headers",
    "basic_authorization",
    "check_endpoint",
    "check_settings",
    "create_device_token",
    "create_embed_token",
    "create_guest_token",
    "create_invite_token",
    "create_subscriber_token",
    "fetch_token",
    "is_credential",
    "mask",
    "pause_before_retry",
    "read",
    "read_header",
    "read_hint",
    "read_lifetimes",
    "refresh_device_token",
    "refresh_subscriber_token",
    "replacing",
    "subscriber_addresses",
    "subscriber_info",
]

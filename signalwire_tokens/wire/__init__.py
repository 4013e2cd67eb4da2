"""The service's operations as data: requests out; (status, headers, body) in, a model or an error out.

Nothing here sends, waits or reads a clock. `checks` finds what is wrong with arguments, `space` with settings;
`requests` describes each operation, `answers` reads what comes back, `header` reads what a token says openly.
"""

from .answers import Answer, Page, pause_before_retry, read
from .header import Header, read_header
from .requests import (
    Auth,
    Request,
    When,
    create_embed_token,
    create_guest_token,
    create_invite_token,
    create_subscriber_token,
    mask,
    refresh_subscriber_token,
    subscriber_addresses,
    subscriber_info,
)
from .space import basic_authorization, check_settings, is_credential

__all__ = [
    "Answer",
    "Auth",
    "Header",
    "Page",
    "Request",
    "When",
    "basic_authorization",
    "check_settings",
    "create_embed_token",
    "create_guest_token",
    "create_invite_token",
    "create_subscriber_token",
    "is_credential",
    "mask",
    "pause_before_retry",
    "read",
    "read_header",
    "refresh_subscriber_token",
    "subscriber_addresses",
    "subscriber_info",
]

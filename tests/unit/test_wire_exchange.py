"""A request and an answer, which stand in frames and must show nothing."""

import attrs

from signalwire_tokens import (
    wire,
)
from signalwire_tokens.models import Secret
from support.wire_samples import SENT, answer


def test_a_request_and_an_answer_hide_what_they_carry():
    """They stand in frames, so they show nothing."""
    request = wire.create_subscriber_token("a", now=SENT, password=Secret("hush"))
    shown = repr(request) + repr(attrs.evolve(request, bearer=Secret("hush"))) + repr(answer({"token": "hush"}))
    assert "hush" not in shown

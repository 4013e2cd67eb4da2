"""The access tokens that programs have presented to an emulator, so that a test can revoke them."""

OPERATION = "subscriber_info"


def note_presented(emulator):
    """Return a list that gets the token of each request for a subscriber's info."""
    presented, answer = [], emulator.service.handlers[OPERATION]

    def note(call):
        presented.append(call.authorization.removeprefix("Bearer "))
        return answer(call)

    emulator.service.handlers[OPERATION] = note
    return presented

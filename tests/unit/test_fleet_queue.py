"""The queue of a fleet: however many entries at its front are stale, the next session is found."""

from signalwire_tokens.fleet.queue import DROPPED, Queue


class Waiting:
    """A session that waits, with a deadline."""

    def __init__(self, at):
        self.deadline, self.has_failed = lambda: at, lambda: False


def test_the_next_session_is_found_behind_many_that_have_left():
    """More than one call removes at the front."""
    queue, waiting = Queue(), [Waiting(at) for at in range(6 * DROPPED)]
    for one in waiting:
        queue.add(one)
    for one in waiting[: 2 * DROPPED]:
        queue.remove(one)
    assert queue.first(healthy=False) is waiting[2 * DROPPED]
    assert len(queue) == 4 * DROPPED

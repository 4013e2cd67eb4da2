"""The faults that a test has asked for, and that no request has used up yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast, get_args

import attrs

from .arguments import check_whole
from .calls import OPERATIONS
from .faults import Fault, HttpFault, RpcFailure, RpcFault
from .rpc import ACKNOWLEDGEMENT

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PendingFaults"]


@attrs.define
class PendingFault:
    """A fault with the requests that it still applies to. `left` is None for no limit."""

    fault: Fault
    operation: str | None
    left: int | None


class PendingFaults:
    """The faults that are still to come, in the order in which they were added."""

    def __init__(self) -> None:
        self._pending: list[PendingFault] = []

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, fault: Fault, operation: str | None, times: int | None) -> None:
        """Add a fault for the next `times` requests. Raise a `ValueError` or `TypeError` for wrong arguments."""
        is_rpc = operation is not None and "." in operation
        if operation is not None and operation not in OPERATIONS and not is_rpc:
            raise ValueError(
                f"operation must be one of: {', '.join(OPERATIONS)}, or a method of the gateway: 'signalwire.connect'"
            )
        if not isinstance(fault, get_args(Fault)):
            raise TypeError(
                f"fault must be one of the emulator's faults, such as Status(503), not {type(fault).__name__}"
            )
        kinds = get_args(RpcFault if is_rpc else HttpFault)
        if not isinstance(fault, kinds) or (operation == ACKNOWLEDGEMENT and isinstance(fault, RpcFailure)):
            names = ", ".join(kind.__name__ for kind in kinds)
            where = f"the operation {operation!r}" if operation else "all HTTP requests"
            raise ValueError(f"{type(fault).__name__} doesn't fit {where}: use one of {names}")
        if times is not None:
            check_whole("times", times)
            if times < 1:
                raise ValueError(f"times must be 1 or more, or None (until clear_faults()), got {times}")
        self._pending.append(PendingFault(fault, operation, times))

    def clear(self) -> None:
        """Remove all faults."""
        self._pending.clear()

    def take_http(self, operation: str | None) -> HttpFault | None:
        """Return the fault for an HTTP request, or None. It counts as used."""
        return cast("HttpFault | None", self._take(lambda wanted: wanted in (None, operation)))

    def take_rpc(self, method: str) -> RpcFault | None:
        """Return the fault for a message to the gateway, or None. It counts as used."""
        return cast("RpcFault | None", self._take(lambda wanted: wanted == method))

    def _take(self, matches: Callable[[str | None], bool]) -> Fault | None:
        for pending in self._pending:
            if matches(pending.operation):
                if pending.left is not None:
                    pending.left -= 1
                    if not pending.left:
                        self._pending.remove(pending)
                return pending.fault
        return None

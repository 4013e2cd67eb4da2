"""`DeviceSession` and `DeviceKey`, for devices that don't have the project's credentials. They need the extra `crypto`.

A token can be bound to a device's key, so that a copy of the token is useless without the key:

1. The device makes a `DeviceKey` and sends its `fingerprint` to your app's backend. The key never leaves the device.
2. The backend issues a token for that fingerprint, with the scope `sat:refresh`, and returns it to the device.
3. The device exchanges it at SignalWire for a token that is bound to the key (`DeviceSession` does this).
4. The device exchanges each bound token for the next one, without the backend.

In steps 3 and 4, the request carries a proof (DPoP, RFC 9449): a small text that the key has signed, which names the
request and the time. A proof is accepted once, and for about a minute.
"""

from .key import DeviceKey
from .sessions import DeviceSession

__all__ = ["DeviceKey", "DeviceSession"]

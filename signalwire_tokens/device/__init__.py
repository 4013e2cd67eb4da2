"""For devices with a key of their own, and nothing of the project's: it needs the extra `crypto`.

The key never leaves the device. A backend has a token issued for the key's fingerprint; the device exchanges it for one
that is bound to the key, and renews that by itself, each time with a signed proof that it has the key (RFC 9449).
"""

from .key import DeviceKey
from .sessions import DeviceSession

__all__ = ["DeviceKey", "DeviceSession"]

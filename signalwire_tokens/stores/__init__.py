"""Where pairs are kept, so that they outlive a process and can be shared between them.

`MemoryStore` and `SqliteStore` are here; `RedisStore` is in `signalwire_tokens.stores.redis`, and needs an extra.
Those who write a store of their own find its protocol here, `TokenStore`, and what it takes and answers.
"""

from .memory import MemoryStore
from .protocol import TokenStore
from .records import Reading, Record, key_of
from .sealing import Sealer, generate_encryption_key
from .sqlite import SqliteStore

__all__ = [
    "MemoryStore",
    "Reading",
    "Record",
    "Sealer",
    "SqliteStore",
    "TokenStore",
    "generate_encryption_key",
    "key_of",
]

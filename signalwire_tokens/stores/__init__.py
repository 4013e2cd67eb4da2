"""Token stores: they keep token pairs beyond the life of a session, and share them between sessions.

===============  =================================  ================================  ============================
store            keeps pairs                        shared by the sessions of         clock that ages count by
===============  =================================  ================================  ============================
`MemoryStore`    in memory, until the process ends  one process                       this machine's running clock
`SqliteStore`    in a file                          one machine's processes           this machine's running clock
`RedisStore`     on a Redis or Valkey server        many machines                     the server's clock
`PostgresStore`  on a PostgreSQL server             many machines                     the server's clock
===============  =================================  ================================  ============================

Import `RedisStore` from `signalwire_tokens.stores.redis`: it needs the extra `redis`. Import `PostgresStore` from
`signalwire_tokens.stores.postgres`: it needs the extra `postgres`.

To write a store of your own, implement the protocol `TokenStore` with `Record` and `Reading`. Run
`signalwire_tokens.testing.StoreConformance` on it.
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

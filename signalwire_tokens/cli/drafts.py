"""Files that are replaced as a whole, so a reader finds the old content or the new, and never a part."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["draft_beside"]


@contextmanager
def draft_beside(path: Path, content: bytes) -> Iterator[Path]:
    """Yield a new file with mode 0600 in the same folder. Remove it at the end, unless it has replaced the other."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600 from the first
    try:
        with open(handle, "wb") as file:  # noqa: PTH123 - of a handle
            file.write(content)
            file.flush()
            os.fsync(handle)  # or a machine that loses its power keeps the name and not what it names
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)

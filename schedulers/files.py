"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """A path beside ``file`` to write to; at the end of the block it takes the place of ``file``.

    An error or a kill in between leaves ``file`` as it was; after an error nothing else is left either.
    """
    part = file.with_name(f".{secrets.token_hex(8)}.part")
    try:
        yield part
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)

"""One process at a time."""

from __future__ import annotations

import fcntl
from typing import IO, Any

from dissect.errors import DissectError


def hold(file: IO[Any], refusal: DissectError) -> None:
    """Lock an open file until it is closed; raises `refusal` where another process holds it. Dies with the process."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise refusal from None

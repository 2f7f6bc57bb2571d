"""Whether a file could have been written, or a secret one read, by anybody but this user and root."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

_NOT_OTHERS_WRITE = 0o022
_NOT_OTHERS_AT_ALL = 0o077


def looseness(path: Path, status: os.stat_result, *, secret: bool = False) -> str | None:
    """What of a file lets somebody else change it, and for a secret one also read it, with the command that mends that;
    None where nothing does. `status` is the open file's own, so that what was looked at is what is read.
    """
    mode, named = stat.S_IMODE(status.st_mode), shlex.quote(str(path))
    user = os.geteuid()
    # Root looks after a service's files as well, which are the service user's.
    if user not in (0, status.st_uid) and status.st_uid != 0:
        return f"{path} belongs to user {status.st_uid}: run `chown {user} {named}`"
    if mode & (_NOT_OTHERS_AT_ALL if secret else _NOT_OTHERS_WRITE):
        return f"{path} has mode {mode:04o}: run `chmod {'600' if secret else 'go-w'} {named}`"
    return None

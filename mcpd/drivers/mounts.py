"""Which folders lie on a network file system, where SQLite's locks and shared memory cannot be trusted.

Called by: `storage.sqlite.documents`, before it opens a file. Looks at Linux's mount table; elsewhere nothing is known,
and nothing refused. Deliberately not a list of what is good: the roots of containers are overlays, 9p or virtiofs, and
those must work.

Sources: sqlite.org/wal.html ("all processes must be on the same host"); proc(5), `/proc/[pid]/mountinfo`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

MOUNTS: Final = Path("/proc/self/mountinfo")

NETWORK: Final = re.compile(
    r"(nfs\d*|cifs|smb\w*|ncpfs|n?afs|ceph|lustre|beegfs|gpfs|davfs2?|glusterfs"
    r"|fuse\.(sshfs|glusterfs\S*|ceph\S*|rclone|s3fs|gcsfuse|davfs2?|smbnetfs|juicefs|moosefs|mfs))"
)
"""File systems that several machines may mount at once."""


def network_file_system(folder: Path) -> str | None:
    """Return the type of the network file system that `folder` (which need not exist yet) is on, or None."""
    try:
        mounts = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    kind = mounted_type(os.path.realpath(folder), mounts)
    return kind if kind and NETWORK.fullmatch(kind) else None


def mounted_type(path: str, mountinfo: str) -> str | None:
    """Return the type of the file system that holds the real, absolute `path`; of two mounts at one place the later."""
    best, found = -1, None
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(" "), after.split(" ")
        if len(fields) < 5 or not kinds[0]:
            continue
        point = _unescaped(fields[4])
        if _holds(point, path) and len(point) >= best:
            best, found = len(point), kinds[0]
    return found


def _holds(point: str, path: str) -> bool:
    return point in {"/", path} or path.startswith(f"{point}/")


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)

"""Which mounts are refused as a data folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcpd.drivers import mounts

TABLE = r"""
22 1 0:21 / / rw,relatime - overlay overlay rw,lowerdir=/a:/b
23 22 0:22 / /proc rw - proc proc rw
30 22 0:30 / /home rw,relatime shared:1 master:2 - nfs4 server:/home rw,vers=4.2
31 30 0:31 / /home/local rw - ext4 /dev/vda rw
32 22 0:32 / /mnt/with\040blank rw - cifs //server/share rw
33 22 0:33 / /build rw - 9p host rw,trans=virtio
34 22 0:34 / /srv rw - ext4 /dev/vdb rw
35 22 0:35 / /srv rw - fuse.sshfs me@server:/srv rw
36 broken line
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "overlay"),
        ("/homestead/data", "overlay"),
        ("/home", "nfs4"),
        ("/home/me/.mcpd", "nfs4"),
        ("/home/local/.mcpd", "ext4"),
        ("/mnt/with blank/data", "cifs"),
        ("/build/x", "9p"),
        ("/srv/data", "fuse.sshfs"),
    ],
)
def test_a_path_is_on_the_nearest_mount_and_on_the_later_of_two(path: str, kind: str) -> None:
    assert mounts.mounted_type(path, TABLE) == kind


@pytest.mark.parametrize(
    "kind", ["nfs", "nfs4", "cifs", "smb3", "afs", "ceph", "fuse.sshfs", "fuse.glusterfs", "lustre"]
)
def test_network_file_systems_are_known(kind: str) -> None:
    assert mounts.NETWORK.fullmatch(kind)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "9p", "virtiofs", "fuse.mergerfs"])
def test_local_file_systems_and_the_roots_of_containers_are_not_refused(kind: str) -> None:
    assert not mounts.NETWORK.fullmatch(kind)


def test_the_folder_of_this_test_is_fine_although_it_does_not_exist_yet(tmp_path: Path) -> None:
    assert mounts.network_file_system(tmp_path / "not" / "yet") is None


def test_without_a_table_of_mounts_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "nothing")
    assert mounts.network_file_system(tmp_path) is None


def test_a_symlink_to_a_network_folder_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path.resolve() / "mounted"
    (tmp_path / "link").symlink_to(target)
    table = tmp_path / "mountinfo"
    table.write_text(f"1 0 0:1 / / rw - ext4 x rw\n2 1 0:2 / {target} rw - nfs x rw\n")
    monkeypatch.setattr(mounts, "MOUNTS", table)
    assert mounts.network_file_system(tmp_path / "link" / "data") == "nfs"

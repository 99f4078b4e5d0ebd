"""Commands that see other file systems than this process does: full ones, or such as cannot be written."""

import subprocess
from pathlib import Path

import pytest


def behind(*mounts: str) -> list[str]:
    """What stands before a command so that the shell's lines `mounts` are run for it alone; skips where none can be."""
    can = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False)
    if can.returncode:
        pytest.skip("nothing can be mounted here")
    return ["unshare", "-rm", "sh", "-c", " && ".join([*mounts, 'exec "$@"']), "sh"]


def small(folder: Path, size: str) -> str:
    """A file system of its own for a folder, which is empty then."""
    return f"mount -t tmpfs -o size={size} none {folder}"


def read_only(folder: Path) -> str:
    """A folder that nobody can write, root neither."""
    return f"mount --bind {folder} {folder} && mount -o remount,bind,ro {folder}"

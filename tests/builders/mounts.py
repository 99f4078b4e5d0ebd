"""Commands that see other file systems than this process: full ones, or read-only ones."""

import subprocess
from pathlib import Path

import pytest


def behind(*mounts: str) -> list[str]:
    """A prefix for a command that runs the shell commands `mounts` for it alone; skips the test if mounting fails."""
    can = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False)
    if can.returncode:
        pytest.skip("nothing can be mounted here")
    return ["unshare", "-rm", "sh", "-c", " && ".join([*mounts, 'exec "$@"']), "sh"]


def small(folder: Path, size: str) -> str:
    """Mounts a new, empty file system of a given size on a folder."""
    return f"mount -t tmpfs -o size={size} none {folder}"


def read_only(folder: Path) -> str:
    """Makes a folder read-only, even for root."""
    return f"mount --bind {folder} {folder} && mount -o remount,bind,ro {folder}"

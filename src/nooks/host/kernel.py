"""The kernel that this machine runs."""

import os


def version() -> tuple[int, int]:
    """Its major and minor number."""
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int(minor)

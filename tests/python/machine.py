"""The memory that this process has, and that there is."""

from __future__ import annotations

import os
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")


def reserved_bytes() -> int:
    """The address space that this process has reserved."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * PAGE


def resident_bytes() -> int:
    """The memory that this process really has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def available_bytes() -> int:
    """The memory that new work can have without swapping, by the kernel's estimate."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, value = line.split(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    raise AssertionError("/proc/meminfo has no MemAvailable")

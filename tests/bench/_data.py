"""Real images, which lie outside of the repository."""

import os
import sys
from pathlib import Path


def data_file(name: str) -> Path | None:
    """A file of the folder that FL_AUDIT_TEST_DATA names; None, and a word on stderr, where there is none."""
    folder = os.environ.get("FL_AUDIT_TEST_DATA")
    path = Path(folder) / name if folder else None
    if path is None or not path.is_file():
        sys.stderr.write(f"FL_AUDIT_TEST_DATA names no folder with {name}\n")
        return None
    return path

"""Auditing an existing Flower app: reading its folder, running it in a process of its own, watching it."""

from fl_audit.federation.apps.folder import AppFolder, copy_app, read_app
from fl_audit.federation.apps.job import FROZEN, HELD_OUT, AppFailure, AppJob, AppOutcome
from fl_audit.federation.apps.process import run_app

__all__ = [
    "AppFailure",
    "AppFolder",
    "AppJob",
    "AppOutcome",
    "FROZEN",
    "HELD_OUT",
    "copy_app",
    "read_app",
    "run_app",
]

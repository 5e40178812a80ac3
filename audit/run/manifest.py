"""The manifest: what ran, with which versions, on which machine, so that a run can be repeated."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import fl_audit
from fl_audit.core.files import write_json
from fl_audit.metrics import installed_weights
from fl_audit.run.config import RunConfig

_PACKAGES = (
    "dp-accounting",
    "flwr",
    "lpips",
    "numpy",
    "pydantic",
    "ray",
    "safetensors",
    "scikit-image",
    "scikit-learn",
    "scipy",
    "torch",
    "torchvision",
)


def write_manifest(path: Path, config: RunConfig, run_id: str, command: list[str], device: str) -> None:
    """Write ``manifest.json``. It holds no clock time and nothing that names the user."""
    write_json(
        path,
        {
            "schema_version": 1,
            "run_id": run_id,
            "command": command,
            "seed": config.seed,
            "fl_audit": {"version": fl_audit.__version__, **source_state()},
            "packages": package_versions(),
            "python": platform.python_version(),
            "platform": f"{platform.system()} {platform.machine()}",
            "cpu_cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "device": device_name(device),
            "weights": installed_weights(),
        },
    )


def package_versions() -> dict[str, str | None]:
    """Versions of the packages that figures depend on; None where one is not installed."""
    versions: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def source_state() -> dict[str, Any]:
    """Commit and dirty flag of the source tree, null for an installed package."""
    folder = Path(fl_audit.__file__).resolve().parent
    if not (folder.parent / "pyproject.toml").is_file():
        return {"commit": None, "dirty": None}
    commit = _git(folder, "rev-parse", "HEAD")
    status = _git(folder, "status", "--porcelain")
    return {"commit": commit, "dirty": None if status is None else bool(status)}


def device_name(device: str) -> str:
    """``cpu``, or the GPU's own name."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.startswith("cuda") else device


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None

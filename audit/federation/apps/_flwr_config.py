"""How Flower reads an app folder: its own functions, touched here alone. Watched by test_app_canaries.py."""

from pathlib import Path
from typing import Any

from flwr.clientapp import ClientApp
from flwr.common import config as _config
from flwr.common.config import get_fused_config_from_dir, get_project_config, parse_config_args
from flwr.serverapp import ServerApp
from flwr.supercore.constant import DEFAULT_SIMULATION_CONFIG
from flwr.supercore.object_ref import load_app

Value = bool | float | int | str

NotKeyValue: type[Exception] = vars(_config)["click"].ClickException
"""What Flower raises for overrides that are no key=value."""

DEFAULT_SUPERNODES = int(DEFAULT_SIMULATION_CONFIG.num_supernodes)
"""Supernodes of a simulation where nobody says how many."""


def project(folder: Path) -> dict[str, Any]:
    """``pyproject.toml``; ValueError or FileNotFoundError say what is wrong with it."""
    return get_project_config(folder)


def run_config(folder: Path, overrides: list[str]) -> dict[str, Value]:
    """The app's config with ``--run-config`` applied, flat, as ``flwr run`` computes it.

    Raises:
        ValueError: a key that the app does not have.
        NotKeyValue: no key=value.
    """
    return dict(get_fused_config_from_dir(folder, parse_config_args(overrides)))


def load_component(reference: str, kind: type[ServerApp] | type[ClientApp], folder: Path) -> Any:
    """Import ``module:attribute`` from the app; raises what the app's modules raise, or ValueError."""
    found = load_app(reference, ValueError, folder)
    if not isinstance(found, kind):
        raise ValueError(f"{reference} is of type {type(found).__name__}, expected a {kind.__name__}")
    return found

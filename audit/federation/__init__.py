"""Running Flower: engines, our apps, the client wrapper with witness and defense. Needs flwr.

Parts load when they are asked for: SuperNodes start a process for each message, and PyTorch takes seconds.
"""

from typing import TYPE_CHECKING, Any

from fl_audit.federation._env import guard

guard()  # before anything imports flwr

if TYPE_CHECKING:
    from fl_audit.core.training import Training
    from fl_audit.federation.flower_strategies import (
        create_strategy,
        defended_strategy,
        strategy_names,
        strategy_summary,
    )
    from fl_audit.federation.local_engine import run_local
    from fl_audit.federation.runner import initial_model, run_federation
    from fl_audit.federation.spec import ClientProblem, FederationResult, FederationSpec, RoundUtility
    from fl_audit.federation.wrapped import WrappedClientApp

_HOMES = {
    "ClientProblem": "fl_audit.federation.spec",
    "FederationResult": "fl_audit.federation.spec",
    "FederationSpec": "fl_audit.federation.spec",
    "RoundUtility": "fl_audit.federation.spec",
    "Training": "fl_audit.core.training",
    "WrappedClientApp": "fl_audit.federation.wrapped",
    "create_strategy": "fl_audit.federation.flower_strategies",
    "defended_strategy": "fl_audit.federation.flower_strategies",
    "initial_model": "fl_audit.federation.runner",
    "run_federation": "fl_audit.federation.runner",
    "run_local": "fl_audit.federation.local_engine",
    "strategy_names": "fl_audit.federation.flower_strategies",
    "strategy_summary": "fl_audit.federation.flower_strategies",
}

__all__ = [
    "ClientProblem",
    "FederationResult",
    "FederationSpec",
    "RoundUtility",
    "Training",
    "WrappedClientApp",
    "create_strategy",
    "defended_strategy",
    "initial_model",
    "run_federation",
    "run_local",
    "strategy_names",
    "strategy_summary",
]


def __getattr__(name: str) -> Any:
    """Load a part."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)

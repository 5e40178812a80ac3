"""Running Flower: engines, our apps, the client wrapper with witness and defense. Needs flwr."""

from fl_audit.federation._env import guard

guard()  # before anything imports flwr

from fl_audit.core.training import Training  # noqa: E402  # the guard comes first
from fl_audit.federation.flower_strategies import (  # noqa: E402
    create_strategy,
    strategy_names,
    strategy_summary,
)
from fl_audit.federation.local_engine import run_local  # noqa: E402
from fl_audit.federation.runner import initial_model, run_federation  # noqa: E402
from fl_audit.federation.spec import (  # noqa: E402
    ClientProblem,
    FederationResult,
    FederationSpec,
    RoundUtility,
)
from fl_audit.federation.wrapped import WrappedClientApp  # noqa: E402

__all__ = [
    "ClientProblem",
    "FederationResult",
    "FederationSpec",
    "RoundUtility",
    "Training",
    "WrappedClientApp",
    "create_strategy",
    "initial_model",
    "run_federation",
    "run_local",
    "strategy_names",
    "strategy_summary",
]

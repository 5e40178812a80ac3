"""What an app does by itself to protect its clients' updates, as far as it can be found without asking.

Mods of the client app, Flower's differential-privacy strategies and Opacus are looked for; what else an app
does inside its functions is not seen.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any

from flwr.client.mod import secagg_mod, secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import (
    LocalDpMod,
    adaptiveclipping_mod,
    arrays_size_mod,
    fixedclipping_mod,
    message_size_mod,
)

from fl_audit.federation.apps.job import Protection
from fl_audit.federation.apps.live import living
from fl_audit.strategies._content import short
from fl_audit.strategies.found import central, is_central, module_of, settings_of

_HARMLESS = (arrays_size_mod, message_size_mod)
_MASKS = (secagg_mod, secaggplus_mod)
_CLIPPING = {
    "fixedclipping_mod": "clips each update at the client; the noise, if any, is the server's",
    "adaptiveclipping_mod": "clips each update to a norm that adapts, at the client; the noise, if any, is "
    "the server's",
}


def mods_of(app: ClientApp) -> list[Any]:
    """The mods around an app's training, outermost first."""
    found: list[Any] = []
    functions = [
        function
        for name, function in app._registered_funcs.items()
        if name == "train" or name.startswith("train.")
    ]
    for function in [app._call, *functions]:
        found += [mod for mod in _chain(function) if not any(mod is other for other in found)]
    return found


def of_mods(app: ClientApp) -> list[Protection]:
    """What the mods of an app do; one of the app's own is named, what it does is not known."""
    found = []
    for mod in mods_of(app):
        if any(mod is other for other in _HARMLESS):
            continue
        if any(mod is other for other in _MASKS):
            detail = "secure aggregation: the server sees the sum of a round's updates and no single one"
            found.append(Protection(name="SecAgg+", kind="mod", detail=detail))
        elif isinstance(mod, LocalDpMod):
            detail = f"clips each update and adds noise at the client; {settings_of(mod)}"
            found.append(Protection(name="LocalDpMod", kind="mod", detail=detail))
        else:
            name = short(str(getattr(mod, "__name__", type(mod).__name__)), 60)
            flowers = any(mod is other for other in (adaptiveclipping_mod, fixedclipping_mod))
            own = "a mod of the app's own; what it does to an update is not known"
            detail = _CLIPPING[name] if flowers else own
            found.append(Protection(name=name, kind="mod", detail=detail))
    return found


def of_strategies() -> list[Protection]:
    """Flower's central differential privacy, while the server app runs."""
    return [
        Protection(name=found.name, kind="strategy", detail=found.detail)
        for found in map(central, living(is_central))
    ]


def of_training() -> list[Protection]:
    """Opacus, while a client trains; each setting once."""
    if "opacus" not in sys.modules:
        return []
    found = []
    for optimizer in living(lambda kind: module_of(kind).startswith("opacus.optimizers")):
        settings = ", ".join(
            f"{name} = {getattr(optimizer, name, None)}" for name in ("noise_multiplier", "max_grad_norm")
        )
        entry = Protection(
            name="Opacus DP-SGD",
            kind="training",
            detail=f"clips the gradient of each example and adds noise in every step; {settings}",
        )
        found += [entry] if entry not in found else []
    return found


def _chain(function: Callable[..., Any] | None) -> Iterator[Any]:
    """The mods that ``flwr.client.mod.make_ffn`` has put around a function; watched by test_protections."""
    while function is not None:
        code, cells = getattr(function, "__code__", None), getattr(function, "__closure__", None)
        held = {} if code is None else dict(zip(code.co_freevars, cells or (), strict=True))
        if set(held) != {"_mod", "_ffn"}:
            return
        yield held["_mod"].cell_contents
        function = held["_ffn"].cell_contents

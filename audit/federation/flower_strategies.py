"""Flower's strategies by name, or anyone's as ``module:Class``, with parameters from text."""

import difflib
import inspect
import types
import typing
from typing import Any

from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Strategy

from fl_audit.core.errors import ConfigError
from fl_audit.core.registry import import_object, is_import_spec, parse_params
from fl_audit.core.units import Defense

_KIND = "strategy"
_STRATEGIES: dict[str, type[Strategy]] = {
    "bulyan": flower.Bulyan,
    "fedadagrad": flower.FedAdagrad,
    "fedadam": flower.FedAdam,
    "fedavg": flower.FedAvg,
    "fedavgm": flower.FedAvgM,
    "fedmedian": flower.FedMedian,
    "fedprox": flower.FedProx,
    "fedtrimmedavg": flower.FedTrimmedAvg,
    "fedyogi": flower.FedYogi,
    "krum": flower.Krum,
    "multi-krum": flower.MultiKrum,
    "qfedavg": flower.QFedAvg,
}
_TYPES = (bool, int, float, str)


def strategy_names() -> list[str]:
    """Names that `create_strategy` knows, sorted."""
    return sorted(_STRATEGIES)


def strategy_summary(name: str) -> str:
    """What a named strategy is: the first line of its documentation in Flower."""
    return (inspect.getdoc(_find(name)) or "").split("\n", 1)[0]


def create_strategy(
    spec: str,
    *,
    clients: int = 2,
    fraction: float = 1.0,
    evaluate: bool = True,
    learning_rate: float | None = None,
) -> Strategy:
    """Build a strategy from ``name``, ``name:key=value,…`` or ``module:Class:key=value,…``.

    Args:
        spec: which one. A lone value sets its first own parameter, e.g. ``fedprox:0.1`` the proximal mu.
        clients: number of clients there are; the strategy waits for all of them.
        fraction: share of them that trains in a round.
        evaluate: whether clients evaluate after each round.
        learning_rate: the clients' learning rate, for strategies that ask for it (``qfedavg``).

    Raises:
        ConfigError: unknown name or parameter (with the valid ones), or a value that does not fit.
    """
    name, text = _split(spec)
    cls = _find(name)
    parameters = _parameters(cls)
    settings = {key: p for key, p in parameters.items() if _type_of(p) is not None}
    own = [key for key in settings if key not in _parameters(flower.FedAvg)] or list(settings)
    given = parse_params(_KIND, spec, text, own)
    values: dict[str, Any] = {key: _coerce(spec, key, value, settings) for key, value in given.items()}
    automatic = {
        "fraction_train": fraction,
        "fraction_evaluate": 1.0 if evaluate else 0.0,
        "min_train_nodes": 1,
        "min_evaluate_nodes": 1 if evaluate else 0,
        "min_available_nodes": clients,
        "client_learning_rate": learning_rate,
    }
    for key, value in automatic.items():
        if key in parameters and value is not None:
            values.setdefault(key, value)
    missing = [k for k, p in parameters.items() if p.default is inspect.Parameter.empty and k not in values]
    if missing:
        raise ConfigError(f"strategy {spec!r}: {', '.join(missing)} required, e.g. {name}:{missing[0]}=…")
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"strategy {spec!r}: {error}") from error


def defended_strategy(
    spec: str, defense: Defense, *, clients: int, fraction: float, **options: Any
) -> Strategy:
    """As `create_strategy`, with what ``defense`` does at the server around it.

    Raises:
        ConfigError: also where the two do not go together.
    """
    strategy = create_strategy(spec, clients=clients, fraction=fraction, **options)
    # As Flower's FedAvg takes the share; the strategy's own parameters may have set another one.
    share, least = getattr(strategy, "fraction_train", fraction), getattr(strategy, "min_train_nodes", 1)
    sampled = max(int(clients * share), least)
    wrapped: Strategy = defense.wrap_strategy(strategy, clients=clients, sampled=sampled)
    return wrapped


def _split(spec: str) -> tuple[str, str]:
    """Name and parameters: ``fedavg:a=1`` at the first colon, ``module:Class:a=1`` at the second."""
    head, _, rest = spec.partition(":")
    if head in _STRATEGIES or not rest:
        return head, rest
    attribute, _, text = rest.partition(":")
    name = f"{head}:{attribute}"
    return (name, text) if is_import_spec(name) else (head, rest)


def _find(name: str) -> type[Strategy]:
    if name in _STRATEGIES:
        return _STRATEGIES[name]
    if is_import_spec(name):
        found = import_object(name, _KIND)
        if not callable(getattr(found, "start", None)):
            raise ConfigError(f"strategy {name!r}: expected a Flower Strategy class with a start method")
        return typing.cast("type[Strategy]", found)
    near = difflib.get_close_matches(name, _STRATEGIES, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    valid = ", ".join(strategy_names())
    raise ConfigError(f"unknown strategy {name!r}.{hint} Valid: {valid}, or module:Class")


def _parameters(cls: type[Any]) -> dict[str, inspect.Parameter]:
    """Parameters of the constructor, and of the base's where it passes ``**kwargs`` on."""
    found: dict[str, inspect.Parameter] = {}
    for base in inspect.getmro(cls):
        if "__init__" not in vars(base) or base is object:
            continue
        constructor = vars(base)["__init__"]
        parameters = list(inspect.signature(constructor).parameters.values())[1:]
        for parameter in parameters:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                found.setdefault(parameter.name, parameter)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found


def _type_of(parameter: inspect.Parameter) -> type | None:
    """Which of bool, int, float and str a parameter takes; by its default where it has no annotation."""
    annotation = parameter.annotation
    if annotation is inspect.Parameter.empty:
        annotation = type(parameter.default)
    if isinstance(annotation, str):
        annotation = {t.__name__: t for t in _TYPES}.get(annotation.split("|")[0].strip())
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        annotation = next((a for a in typing.get_args(annotation) if a in _TYPES), None)
    return annotation if annotation in _TYPES else None


def _coerce(spec: str, key: str, text: str, settings: dict[str, inspect.Parameter]) -> Any:
    if key not in settings:
        near = difflib.get_close_matches(key, settings, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"strategy {spec!r}: unknown parameter {key!r}.{hint} Valid: {', '.join(settings) or 'none'}"
        )
    kind = _type_of(settings[key])
    if kind is bool:
        values = {"true": True, "1": True, "false": False, "0": False}
        if text.lower() in values:
            return values[text.lower()]
    elif kind is not None:
        try:
            return kind(text)
        except ValueError:
            pass
    expected = {bool: "true or false", int: "a whole number", float: "a number"}.get(kind or str, "text")
    raise ConfigError(f"strategy {spec!r}: {key}: expected {expected}, got {text!r}")

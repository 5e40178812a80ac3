"""From defaults, scenario, YAML file and command line to a `RunConfig`; mistakes name file and line."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from fl_audit.core.errors import ConfigError
from fl_audit.run.config import SCENARIOS, RunConfig

MAX_CONFIG_BYTES = 2**20

Lines = Mapping[tuple[str, ...], int]


def resolve_config(file: Path | None, overrides: Mapping[str, Any]) -> RunConfig:
    """Resolve a configuration.

    Args:
        file: YAML file, or None.
        overrides: dotted key to value, e.g. ``{"training.batch_size": 4}``; they win over the file.

    Raises:
        ConfigError: with the file and line, or the key, what was expected and what came.
    """
    values, lines = _read(file) if file else ({}, {})
    for dotted, value in overrides.items():
        _put(values, dotted, value)
    scenario = values.get("scenario", RunConfig.model_fields["scenario"].default)
    merged = _merge(SCENARIOS.get(scenario, {}) if isinstance(scenario, str) else {}, values)
    training = values.get("training")
    if isinstance(training, dict) and isinstance(merged.get("training"), dict):
        # Whoever sets one of the two lengths of local training has thereby unset the other.
        if training.get("local_epochs") is not None and "local_steps" not in training:
            merged["training"]["local_steps"] = None
        if training.get("local_steps") is not None and "local_epochs" not in training:
            merged["training"]["local_epochs"] = None
    try:
        return RunConfig.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(_explain(error, file, lines, overrides)) from None


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Parse ``--set key=value`` options; values are YAML scalars or lists."""
    parsed: dict[str, Any] = {}
    for setting in settings:
        key, eq, text = setting.partition("=")
        if not eq or not key.strip():
            raise ConfigError(f"--set {setting!r}: expected key=value, e.g. --set training.batch_size=4")
        try:
            parsed[key.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {setting!r}: the value is not YAML ({error})") from None
    return parsed


def dump_config(config: RunConfig) -> str:
    """The whole configuration as YAML, each key with its meaning as a comment."""
    out: list[str] = []
    for name, field in RunConfig.model_fields.items():
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            out.append(f"{name}:")
            for key, sub in type(value).model_fields.items():
                out.append(f"  {_line(key, getattr(value, key), sub.description)}")
        else:
            out.append(_line(name, value, field.description))
    return "\n".join(out) + "\n"


def _line(key: str, value: object, description: str | None) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("...\n").strip()
    return f"{key}: {text}  # {description}"


def _read(file: Path) -> tuple[dict[str, Any], Lines]:
    """The YAML mapping of ``file`` and the line of each key."""
    if not file.is_file():
        raise ConfigError(f"{file}: no such configuration file")
    if file.stat().st_size > MAX_CONFIG_BYTES:
        raise ConfigError(f"{file}: larger than {MAX_CONFIG_BYTES} bytes; is this a configuration?")
    try:
        text = file.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{file}{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not valid YAML: {error}") from None
    if values is None:
        return {}, {}
    if not isinstance(values, dict) or not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{file}, line 1: expected keys such as 'seed: 0', got {type(values).__name__}")
    lines: dict[tuple[str, ...], int] = {}
    _collect(node, (), lines, file)
    return values, lines


def _collect(
    node: yaml.MappingNode, path: tuple[str, ...], lines: dict[tuple[str, ...], int], file: Path
) -> None:
    for key, value in node.value:
        here = (*path, str(key.value))
        if here in lines:
            line = key.start_mark.line + 1
            raise ConfigError(
                f"{file}, line {line}: {'.'.join(here)} is set twice, first on line {lines[here]}"
            )
        lines[here] = key.start_mark.line + 1
        if isinstance(value, yaml.MappingNode):
            _collect(value, here, lines, file)
        elif isinstance(value, yaml.SequenceNode):
            for number, item in enumerate(value.value):
                lines[(*here, str(number))] = item.start_mark.line + 1


def _put(values: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, key = dotted.split(".")
    for section in sections:
        inner = values.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{dotted}: {section!r} holds {inner!r}, not keys")
        values = inner
    values[key] = value


def _merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = {key: dict(value) if isinstance(value, Mapping) else value for key, value in base.items()}
    for key, value in top.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), dict):
            merged[key].update(value)
        else:
            merged[key] = dict(value) if isinstance(value, Mapping) else value
    return merged


def _explain(error: ValidationError, file: Path | None, lines: Lines, overrides: Mapping[str, Any]) -> str:
    out = []
    for item in error.errors(include_url=False):
        path = tuple(str(part) for part in item["loc"])
        dotted = ".".join(path)
        known = next((path[:n] for n in range(len(path), 0, -1) if path[:n] in lines), None)
        where = f"{file}, line {lines[known]}: " if file and known and dotted not in overrides else ""
        if item["type"] == "extra_forbidden":
            valid = list(_fields(path[:-1]))
            near = difflib.get_close_matches(path[-1], valid, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            out.append(f"{where}unknown key {dotted!r}.{hint} Valid: {', '.join(valid)}")
            continue
        message = item["msg"].removeprefix("Value error, ")
        got = "" if item["type"] == "value_error" else f", got {item['input']!r}"
        out.append(
            f"{where}{dotted + ': ' if dotted else ''}{message[0].lower()}{message[1:]}{got}{_option(dotted)}"
        )
    return "\n".join(out)


def _fields(path: tuple[str, ...]) -> Mapping[str, Any]:
    model: type[BaseModel] = RunConfig
    for part in path:
        field = model.model_fields.get(part)
        if (
            field is None
            or not isinstance(field.annotation, type)
            or not issubclass(field.annotation, BaseModel)
        ):
            return {}
        model = field.annotation
    return model.model_fields


OPTIONS = {
    "federation.rounds": "--rounds",
    "federation.clients": "--clients",
    "federation.engine": "--engine",
    "federation.strategy": "--strategy",
    "federation.client_gpus": "--client-gpus",
    "federation.ray_address": "--ray-address",
    "attack.rounds": "--attack-rounds",
    "attack.clients": "--attack-clients",
    "attack.device": "--device",
    "attack.names": "--attack",
    "grade.metrics": "--metric",
    "data.dataset": "--dataset",
    "model": "--model",
    "scenario": "--scenario",
    "seed": "--seed",
    "defenses": "--defense",
}
"""Keys that have an option of their own, so that an error can name both."""


def _option(dotted: str) -> str:
    return f" (option {OPTIONS[dotted]})" if dotted in OPTIONS else ""

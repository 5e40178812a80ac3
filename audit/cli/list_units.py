"""``fl-audit list KIND``: what can be chosen by name, with its parameters."""

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fl_audit.core.registry import Unit


class Kind(StrEnum):
    """What can be listed."""

    attacks = "attacks"
    defenses = "defenses"
    metrics = "metrics"
    datasets = "datasets"
    partitioners = "partitioners"
    models = "models"
    strategies = "strategies"


def add(app: typer.Typer) -> None:
    """Add the command."""
    app.command("list", epilog="Example: fl-audit list attacks -v")(_command)


def _command(
    kind: Annotated[Kind, typer.Argument(help="What to list.", metavar="KIND", show_default=False)],
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Parameters, needs and sources too.")
    ] = False,
) -> None:
    """List attacks, defenses, metrics, datasets, partitioners, models or strategies."""
    console = Console()
    if kind is Kind.strategies:
        from fl_audit.federation import strategy_names, strategy_summary

        console.print(_table(kind, ((name, strategy_summary(name)) for name in strategy_names())))
        return
    units: list[tuple[str, type[Unit]]] = list(_registry(kind))
    console.print(_table(kind, ((name, unit.summary()) for name, unit in units)))
    if kind is Kind.defenses:
        console.print("Stacks apply several, left to right: clip:1+prune:0.9", highlight=False)
    if verbose:
        for name, unit in units:
            console.print(
                f"\n[bold]{escape(name)}[/bold]", *(escape(line) for line in _details(unit)), sep="\n"
            )


def _registry(kind: Kind) -> Iterable[tuple[str, Any]]:
    return _REGISTRIES[kind]()


def _attacks() -> Iterable[tuple[str, Any]]:
    from fl_audit.attacks import attacks

    return attacks


def _defenses() -> Iterable[tuple[str, Any]]:
    from fl_audit.strategies.defenses import defenses

    return defenses


def _metrics() -> Iterable[tuple[str, Any]]:
    from fl_audit.metrics import metrics

    return metrics


def _datasets() -> Iterable[tuple[str, Any]]:
    from fl_audit.data import datasets

    return datasets


def _partitioners() -> Iterable[tuple[str, Any]]:
    from fl_audit.data import partitioners

    return partitioners


def _models() -> Iterable[tuple[str, Any]]:
    from fl_audit.models import models

    return models


_REGISTRIES: dict[Kind, Callable[[], Iterable[tuple[str, Any]]]] = {
    Kind.attacks: _attacks,
    Kind.defenses: _defenses,
    Kind.metrics: _metrics,
    Kind.datasets: _datasets,
    Kind.partitioners: _partitioners,
    Kind.models: _models,
}


def _table(kind: Kind, rows: Iterable[tuple[str, str]]) -> Table:
    table = Table(title=kind.value, title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("name", no_wrap=True)
    table.add_column("what it is")
    for name, summary in rows:
        table.add_row(escape(name), escape(summary))
    return table


def _details(unit: type[Unit]) -> list[str]:
    lines = []
    for name, field in unit.model_fields.items():
        default = "required" if field.is_required() else f"default {field.default!r}"
        lines.append(f"  {name}: {field.description or ''} ({default})")
    for attribute, label in (
        ("acts_on", "acts on"),
        ("excludes", "not together with"),
        ("works", "works for"),
        ("max_images", "images at most"),
        ("better", "closer to the original is"),
        ("range", "from and to"),
        ("needs", "needs"),
        ("wants", "needs of the run"),
        ("uses", "uses if granted"),
        ("acts_on", "acts on"),
        ("server_sees", "what the server sees"),
        ("paper", "source"),
    ):
        value = getattr(unit, attribute, None)
        if value:
            if isinstance(value, frozenset):
                value = sorted(value)
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            lines.append(f"  {label}: {text}")
    return lines or ["  no parameters"]

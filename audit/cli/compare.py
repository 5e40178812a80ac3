"""``fl-audit compare``: several runs in one picture and one table."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fl_audit.core.errors import ConfigError

if TYPE_CHECKING:  # slow to import, and `fl-audit --help` does without
    from fl_audit.reports.comparison import Comparison

_EPILOG = """
Examples:

  fl-audit compare fl-audit-run fl-audit-run-2

  fl-audit compare audits/dp audits/prune --out comparison
"""


def add(app: typer.Typer) -> None:
    """Add the command."""
    app.command("compare", epilog=_EPILOG)(_command)


def _command(
    runs: Annotated[list[Path], typer.Argument(help="Run folders that were graded.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="Write compare.html and compare.json into this folder.")
    ] = None,
) -> None:
    """Compare runs: leakage against accuracy over all their settings, and what differs between the runs."""
    if out is not None and out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: expected a folder, this is a file")
    from fl_audit.reports.comparison import compare_folders, write_comparison

    found = compare_folders(runs)
    print_comparison(found)
    if out is not None:
        page, data = write_comparison(out, found)
        typer.echo(f"Page: {page}")
        typer.echo(f"For scripts: {data}")


def print_comparison(found: "Comparison") -> None:
    """Print what differs, the conclusions and the table of all settings."""
    from rich.console import Console
    from rich.text import Text

    from fl_audit.cli._frontier_table import frontier_table
    from fl_audit.cli._live import plain
    from fl_audit.cli._tables import PLAIN_WIDTH

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, PLAIN_WIDTH)
    for run in found.runs:
        console.print(Text(plain(f"{run.letter}: {run.name} ({run.run_id})", 200), style="bold"))
    for difference in found.differences:
        effect = "not measured alike" if difference.matters else "still comparable"
        console.print(Text(f"  {difference.what} differs ({effect}):"))
        for run, value in zip(found.runs, difference.values, strict=True):
            console.print(Text(plain(f"    {run.letter}: {value}", 400), style="dim"))
    if not found.differences:
        console.print(Text("  Nothing differs but the defenses."))
    for group in found.groups:
        console.print(frontier_table(group.frontier, f"Runs {', '.join(group.runs)}"))
        for text in (group.frontier.conclusion, *group.frontier.doubts):
            console.print(Text(plain(text, 2000)))

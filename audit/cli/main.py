"""Entry point: commands, and the one place where errors become messages and exit codes."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import click
import typer

from fl_audit import __version__
from fl_audit.cli import app as app_command
from fl_audit.cli import compare, doctor, list_units, metrics, run, semsim, stages
from fl_audit.cli._exit import INTERRUPTED
from fl_audit.core.errors import AuditError

_EPILOG = """
First run: fl-audit run --defense dp

It needs no data, no network and no GPU, takes a minute or two, and writes fl-audit-run/report.html.

Then your own Flower app: fl-audit app FOLDER
"""

app = typer.Typer(
    name="fl-audit",
    help="Measure what an honest-but-curious server can reconstruct from federated-learning updates.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",  # markdown would run the examples together
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fl-audit {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show what Flower and the stages log.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    del version
    # module:function names in a configuration mean the user's own files, in the folder they stand in.
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="%(name)s: %(message)s")


run.add(app)
app_command.add(app)
stages.add(app)
compare.add(app)
metrics.add(app)
semsim.add(app)
list_units.add(app)
doctor.add(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 bad usage, 3 over --fail-above, 130 interrupted."""
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        code = app(args=arguments, prog_name="fl-audit", standalone_mode=False)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        typer.echo("interrupted", err=True)
        return INTERRUPTED
    except AuditError as error:
        typer.echo(f"error: {error}", err=True)
        return error.exit_code
    return code if isinstance(code, int) else 0

"""``fl-audit doctor``: is this machine ready, and what can be measured on it?"""

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def add(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor", epilog="Example: fl-audit doctor --download")(_command)


def _command(
    download: Annotated[
        bool,
        typer.Option(
            "--download", help="Download the weights that LPIPS and FID need (the only thing here that does)."
        ),
    ] = False,
) -> int:
    """Check packages, devices and metric weights; with --download fetch the weights that are missing."""
    from fl_audit.core.compat import check_torch_pair
    from fl_audit.metrics import download_weights, metrics
    from fl_audit.run.manifest import package_versions

    console = Console()
    check_torch_pair()
    import torch

    if download:
        for line in download_weights():
            console.print(escape(str(line)))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("what", no_wrap=True)
    table.add_column("state")
    for name, version in package_versions().items():
        table.add_row(name, escape(version or "not installed"))
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    table.add_row("GPU", escape(", ".join(gpus) or "none: attacks run on the CPU"))
    table.add_row("CPU threads", str(torch.get_num_threads()))
    for name, metric in metrics:
        reason = metric().unavailable()
        table.add_row(f"metric {name}", "ready" if reason is None else f"[yellow]{escape(reason)}[/yellow]")
    console.print(table)
    return 0

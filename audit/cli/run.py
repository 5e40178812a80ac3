"""``fl-audit run``: the whole audit."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fl_audit.cli._seconds import seconds
from fl_audit.core.errors import ConfigError

_EPILOG = """
Examples:

  fl-audit run --defense dp

  fl-audit run --defense dp:noise_multiplier=0.1 --defense prune:0.9 --rounds 5

  fl-audit run --defense dp:noise_multiplier=0.1,1,10 --defense prune:0.5,0.9,0.99 --rounds 10

  fl-audit run --defense noise:0.001,0.01 --rounds 10 --baseline-from fl-audit-run

  fl-audit run audit.yaml --set training.batch_size=2 --out audits/today

  fl-audit run --dataset photos.zip:train --model convnet --clients 10 --attack-clients 3 --defense dp

  fl-audit run --defense dp --budget 60s

  fl-audit run --resume fl-audit-run

Exit status: 0 done, 1 failed, 2 bad usage or configuration, 3 leak rate above --fail-above, 130 interrupted.
"""


def add(app: typer.Typer) -> None:
    """Add the command."""
    app.command("run", epilog=_EPILOG)(_command)


def _command(
    config: Annotated[
        Path | None,
        typer.Argument(help="YAML file with settings; --print-config shows all.", show_default=False),
    ] = None,
    defense: Annotated[
        list[str] | None,
        typer.Option(
            help="Defense to test, e.g. dp or prune:0.9, or prune:0.5,0.9 for a sweep; repeat for several. "
            "Names: fl-audit list defenses."
        ),
    ] = None,
    attack: Annotated[
        list[str] | None, typer.Option(help="Attack to run; repeat. Default: auto, which chooses.")
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="Metric to grade by, e.g. lpips:vgg; repeat. 'default' stands for the cheap ones."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="Data set: a name, an image folder, PATH.zip:inner/folder or module:function."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Architecture: a name, torchvision's or module:function.")
    ] = None,
    strategy: Annotated[str | None, typer.Option(help="Flower strategy: a name or module:Class.")] = None,
    scenario: Annotated[
        str | None,
        typer.Option(
            help="worst-case (default: one step on one image, a server that knows much: an upper bound) or "
            "typical (local epochs over batches of 8)."
        ),
    ] = None,
    engine: Annotated[str | None, typer.Option(help="local (one process, bit-reproducible) or ray.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds of the federation.")] = None,
    clients: Annotated[int | None, typer.Option(help="Clients in the federation.")] = None,
    attack_rounds: Annotated[
        int | None, typer.Option(help="How many rounds to attack, evenly spaced from first to last.")
    ] = None,
    attack_clients: Annotated[
        int | None,
        typer.Option(help="How many clients to attack in each such round: of those in it, the lowest ids."),
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Time for attacking each client, e.g. 60s or 2m; default: no limit.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 …")] = None,
    seed: Annotated[int | None, typer.Option(help="Every random choice follows from it.")] = None,
    ray_address: Annotated[str | None, typer.Option(help="Address of a Ray cluster (engine ray).")] = None,
    client_gpus: Annotated[
        float | None, typer.Option(help="GPUs, or a fraction, for each client (engine ray).")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any key, e.g. --set training.batch_size=4; repeat.")
    ] = None,
    baseline: Annotated[
        bool | None,
        typer.Option("--baseline/--no-baseline", help="Run the undefended baseline too; default: yes."),
    ] = None,
    baseline_from: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Take the undefended baseline and the controls from this run of equal settings.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; default: the next free fl-audit-run.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Finish this interrupted run.")] = None,
    fail_above: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Exit 3 if a defense's leak rate is above this (0 to 1)."),
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print all settings as YAML, and exit.")
    ] = False,
) -> int:
    """Run a federation, attack its updates, grade what comes out, report who leaked what."""
    from fl_audit.cli._session import audit
    from fl_audit.run.load import dump_config, parse_settings, resolve_config

    overrides: dict[str, Any] = {
        "defenses": defense,
        "attack.names": attack,
        "grade.metrics": metric,
        "data.dataset": dataset,
        "model": model,
        "federation.strategy": strategy,
        "scenario": scenario,
        "federation.engine": engine,
        "federation.rounds": rounds,
        "federation.clients": clients,
        "attack.rounds": attack_rounds,
        "attack.clients": attack_clients,
        "attack.budget": None if budget is None else seconds(budget),
        "attack.device": device,
        "seed": seed,
        "federation.ray_address": ray_address,
        "federation.client_gpus": client_gpus,
        "baseline": baseline,
    }
    overrides = {key: value for key, value in overrides.items() if value is not None}
    overrides |= parse_settings(settings or [])
    if resume is not None:
        given = [key for key in overrides if key != "attack.device"]
        if given or config is not None or out is not None or baseline_from is not None:
            raise ConfigError(
                f"--resume {resume} goes on with the configuration that the run was started with; it takes "
                f"no other ({', '.join(given) or 'CONFIG, --out or --baseline-from'} was given)"
            )
        return audit(None, resume, fail_above=fail_above, device=device)
    resolved = resolve_config(config, overrides)
    if print_config:
        typer.echo(dump_config(resolved), nl=False)
        return 0
    return audit(resolved, out, fail_above=fail_above, device=None, baseline_from=baseline_from)

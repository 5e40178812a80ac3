"""``fl-audit app DIR``: audit an existing Flower app."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fl_audit.cli._seconds import seconds
from fl_audit.core.errors import ConfigError

_EPILOG = """
Examples:

  fl-audit app .

  fl-audit app ~/quickstart-pytorch --run-config "local-epochs=1 batch-size=4" --clients 5

  fl-audit app my-app --defense dp:noise_multiplier=0.1 --attack-rounds 2 --attack-clients 3 --budget 60s

  fl-audit app my-app --model my_app.task:build_model --input-range=-1,1

  fl-audit app my-app --engine ray --clients 8

  fl-audit app my-app --engine flwr --deployment --clients 2

  fl-audit app my-app --engine flwr --superlink 127.0.0.1:8000 --clients 2 --server-only
    --model my_app.task:build_model --input-range=0,1 --truth my_app.audit:images_of

Engines: local (one process, repeatable to the bit, a client's time ends where --timeout says), ray
(Flower's simulation on Ray), flwr (flwr run of a copy whose components are fl-audit's and load the app's
own: on a SuperLink that simulates its SuperNodes; --deployment: on a SuperLink and SuperNodes started on
loopback, each a process of its own; --superlink: on yours). Under ray and flwr runs agree to the rounding
of sums only, and a client's time includes its wait for a free process. With --server-only SuperNodes run
the app's own code and need no fl-audit; what they trained on is not seen then, and only --truth can have
the images graded.

The app is copied and runs in a process of its own, in this Python environment: install what it needs here.
Its folder is never written to.
Its own code runs, as under flwr run, and again when its model is built to be attacked.

Exit status: 0 done, 1 failed, 2 bad usage or configuration, 3 leak rate above --fail-above, 130 interrupted.
"""
_SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def add(app: typer.Typer) -> None:
    """Add the command."""
    app.command("app", epilog=_EPILOG)(_command)


def _command(
    folder: Annotated[
        Path, typer.Argument(help="Folder of a Flower app.", metavar="DIR", show_default=False)
    ],
    run_config: Annotated[
        list[str] | None,
        typer.Option("--run-config", "-c", help="Overrides, as flwr run takes them; repeat."),
    ] = None,
    clients: Annotated[
        int | None, typer.Option(min=1, help="Supernodes; default: as the folder says, else Flower's 2.")
    ] = None,
    engine: Annotated[
        Literal["local", "ray", "flwr"], typer.Option(help="What runs the app; see below.")
    ] = "local",
    deployment: Annotated[
        bool, typer.Option("--deployment", help="Engine flwr: start a SuperLink and a SuperNode per client.")
    ] = False,
    superlink: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|HOST:PORT",
            help="Engine flwr: your SuperLink: a connection of your Flower configuration, or an address.",
        ),
    ] = None,
    server_only: Annotated[
        bool, typer.Option("--server-only", help="Engine flwr: SuperNodes run the app's own code, unwatched.")
    ] = False,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Sets the run config's num-server-rounds or the like.")
    ] = None,
    defense: Annotated[
        list[str] | None, typer.Option(help="Defense to add at every client, e.g. dp; repeat for several.")
    ] = None,
    attack: Annotated[list[str] | None, typer.Option(help="Attack to run; repeat for several.")] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="Metric to grade by; repeat. 'default' stands for the cheap ones."),
    ] = None,
    attack_rounds: Annotated[
        int | None, typer.Option(min=1, help="How many rounds to attack, evenly spaced; default: three.")
    ] = None,
    attack_clients: Annotated[
        int | None, typer.Option(min=1, help="How many clients to attack, lowest ids; default: all.")
    ] = None,
    budget: Annotated[
        str, typer.Option(help="Time for attacking each client, e.g. 2m; none: no limit.")
    ] = "60s",
    threat: Annotated[
        str | None, typer.Option(help="What the server knows: level A, B or C; default: C.")
    ] = None,
    labels: Annotated[
        bool | None,
        typer.Option(
            "--labels/--no-labels", help="Grant the true labels; default: for up to 64 images an update."
        ),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            help="The clients' loss, if it is not found: module:function of the app, or e.g. "
            "cross-entropy(label_smoothing=0.1)."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="module:function that builds the app's model, if it is not found.")
    ] = None,
    truth: Annotated[
        str | None,
        typer.Option(help="module:function(client, round) for (images, labels), if they are not seen."),
    ] = None,
    input_range: Annotated[
        str | None,
        typer.Option(
            help="LOW,HIGH: what black and white are at the model's input, if it is not found; or such a "
            "pair for each of three channels."
        ),
    ] = None,
    image_shape: Annotated[
        str | None,
        typer.Option(help="C,H,W of images that the app flattens before its model, or are not seen."),
    ] = None,
    timeout: Annotated[
        str, typer.Option(help="Time for a client to answer one message; the round goes on without it.")
    ] = "10m",
    disk: Annotated[str, typer.Option(help="Most that the captures of one federation may take.")] = "20G",
    device: Annotated[str | None, typer.Option(help="Of the attacks: auto, cpu, cuda, cuda:1 …")] = None,
    seed: Annotated[int | None, typer.Option(help="Every random choice follows from it.")] = None,
    baseline: Annotated[
        bool | None, typer.Option("--baseline/--no-baseline", help="Run the app as it is, too.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; default: the next free fl-audit-run.")] = None,
    fail_above: Annotated[
        float | None, typer.Option(min=0, max=1, help="Exit 3 if a leak rate is above this (0 to 1).")
    ] = None,
) -> int:
    """Audit an existing Flower app as it is: run it, attack its updates, report who leaked what."""
    from fl_audit.cli._session import audit_app
    from fl_audit.federation.apps import read_app
    from fl_audit.run.app_settings import AppSettings, app_config
    from fl_audit.run.load import resolve_config

    app = read_app(folder, run_config or [], clients=clients, rounds=rounds)
    settings = AppSettings(
        name=app.name,
        server=app.server,
        client=app.client,
        config=app.config,
        clients=app.clients,
        clients_from=app.clients_from,
        rounds=app.rounds,
        attack_rounds=attack_rounds,
        labels=labels,
        timeout=seconds(timeout),
        disk=_size(disk),
        input_range=None if input_range is None else _range(input_range),
        image_shape=None if image_shape is None else shape_of(image_shape),
        model=_reference("--model", model),
        truth=_reference("--truth", truth),
        engine=engine,
        deployment=deployment,
        superlink=superlink,
        server_only=server_only,
    )
    given: dict[str, Any] = {
        "defenses": defense,
        "attack.names": attack,
        "grade.metrics": metric,
        "attack.rounds": attack_rounds,
        "attack.clients": attack_clients,
        "attack.budget": None if budget == "none" else seconds(budget),
        "attack.device": device,
        "threat.level": threat,
        "threat.loss": loss,
        "seed": seed,
        "baseline": baseline,
    }
    overrides = {key: value for key, value in given.items() if value is not None}
    config = resolve_config(None, app_config(overrides, settings))
    return audit_app(app.root, settings, config, out, fail_above=fail_above)


def _range(text: str) -> tuple[float, ...]:
    """LOW,HIGH for all channels, or a pair for each of three."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) not in (2, 6):
        raise ConfigError(
            f"--input-range {text!r}: expected LOW,HIGH, e.g. --input-range=-1,1, or such a pair for each of "
            "three channels"
        )
    if not all(low < high for low, high in zip(values[::2], values[1::2], strict=True)):
        raise ConfigError(f"--input-range {text!r}: expected LOW below HIGH")
    return values


def shape_of(text: str) -> tuple[int, int, int]:
    """Channels, height, width."""
    try:
        channels, height, width = (int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--image-shape {text!r}: expected C,H,W, e.g. --image-shape 1,28,28") from None
    if channels not in (1, 3) or min(height, width) < 1:
        raise ConfigError(f"--image-shape {text!r}: expected 1 or 3 channels and positive sizes")
    return channels, height, width


def _reference(option: str, text: str | None) -> str | None:
    if text is not None and not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", text):
        raise ConfigError(f"{option} {text!r}: expected module:function, importable from the app's folder")
    return text


def _size(text: str) -> int:
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([kmgt]?)i?b?\s*", text.lower())
    value = float(found[1]) * _SIZES[found[2]] if found else 0
    if value < 1:
        raise ConfigError(f"--disk {text!r}: expected a size such as 500M or 20G")
    return int(value)

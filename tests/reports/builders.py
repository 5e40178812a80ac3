"""A small run folder made by hand: three defenses, failures, hostile clients, unmeasured metrics."""

from pathlib import Path

import torch

from fl_audit.core.images import write_png
from fl_audit.reports.schema import (
    Attacked,
    ClientFacts,
    ClientFailure,
    DatasetFacts,
    DefenseFacts,
    FederationFacts,
    Finding,
    GuessFacts,
    MetricFacts,
    ModelFacts,
    Recognisability,
    RunFacts,
    Scenario,
    Summary,
    ThreatModel,
    UnitFacts,
    Utility,
    UtilityRound,
    write_findings,
    write_summary,
)
from fl_audit.reports.summarise import summarise

HOSTILE = '<script>alert(1)</script><img src="https://evil.example/x.png" onerror=alert(2)>'
ATTACK = "inverting-gradients"
UNMEASURED = {"lpips": "the weights of AlexNet are not on this machine"}


def finding(
    defense: str = "none",
    number: int = 1,
    client: int = 0,
    image: int | None = 0,
    *,
    ssim: float = 0.1,
    attack: str = ATTACK,
    pictures: bool = True,
) -> Finding:
    """A graded line; recognisable from SSIM 0.5 up."""
    place = f"reconstructions/{defense.replace(':', '-')}/r{number:03d}-c{client:02d}/{attack}"
    return Finding(
        defense=defense,
        round=number,
        client=client,
        image=image,
        attack=attack,
        status="graded",
        label=1,
        label_inferred=1,
        train_mode=False,
        batch_size=2,
        local_steps=1,
        metrics={"mse": round(0.2 - 0.19 * ssim, 6), "ssim": ssim, "lpips": None},
        unmeasured=UNMEASURED,
        recognisable=ssim >= 0.5,
        original=f"{place}/{image}_ori.png" if pictures else None,
        reconstruction=f"{place}/{image}_rec.png" if pictures else None,
        objective=0.01,
        iterations=100,
    )


def failure(
    defense: str,
    number: int = 1,
    client: int = 0,
    image: int | None = 0,
    *,
    status: str = "attack-failed",
    reason: str = "the loss is not finite",
    attack: str = ATTACK,
) -> Finding:
    """A line that was not graded."""
    return Finding.model_validate(
        {
            "defense": defense,
            "round": number,
            "client": client,
            "image": image,
            "attack": attack,
            "status": status,
            "reason": reason,
            "metrics": {"mse": None, "ssim": None, "lpips": None},
            "unmeasured": {"mse": reason, "ssim": reason, **UNMEASURED},
        }
    )


def defense(name: str, **changes: object) -> DefenseFacts:
    """A defense with two clients and a utility of 60% to 80%."""
    rounds = [UtilityRound(round=0, accuracy=0.6, loss=0.7), UtilityRound(round=2, accuracy=0.8, loss=0.4)]
    values = {
        "name": name,
        "slug": name.replace(":", "-"),
        "baseline": name == "none",
        "utility": Utility(accuracy=0.8, loss=0.4, rounds=rounds),
        "clients": [ClientFacts(client=0, rounds_participated=2), ClientFacts(client=1)],
        **changes,
    }
    return DefenseFacts.model_validate(values)


def facts(**changes: object) -> RunFacts:
    """The circumstances; two attacks, three metrics of which one is unavailable."""
    values: dict[str, object] = {
        "run_id": "abc123",
        "seed": 0,
        "scenario": Scenario(name="worst-case", words="One local step on a small batch."),
        "threat_model": ThreatModel(level="C", words="parameter-aware", granted=["model"]),
        "dataset": DatasetFacts(
            name="faces", title="Faces", shape=(1, 8, 8), classes=["not", "face"], images=40, partition="iid"
        ),
        "model": ModelFacts(name="lenet", parameters=1234),
        "federation": FederationFacts(
            engine="local", strategy="fedavg", clients=2, rounds=2, training={"batch_size": 2}
        ),
        "attacks": [UnitFacts(name=ATTACK, params={"iterations": 100})],
        "attacked": Attacked(rounds=[1, 2], clients=[0, 1], rule="all rounds; all clients"),
        "recognisability": Recognisability(
            name="interim-ssim", description="SSIM of at least 0.5.", calibrated=False, metric="ssim"
        ),
        "metrics": [
            MetricFacts(
                name="lpips", label="LPIPS", better="lower", range=(0, None), unavailable="no weights"
            ),
            MetricFacts(name="mse", label="MSE", better="lower", range=(0, 1)),
            MetricFacts(name="ssim", label="SSIM", better="higher", range=(-1, 1)),
        ],
        "how_to_repeat": "fl-audit run --defense dp",
        "versions": {"fl-audit": "0.1.0", "ray": None},
        **changes,
    }
    return RunFacts.model_validate(values)


def control(*ssim: float) -> list[Finding]:
    """The positive control, one image in each round."""
    return [finding("control", number, 0, 0, ssim=value) for number, value in enumerate(ssim, start=1)]


def guesses() -> list[GuessFacts]:
    """A negative control of four images."""
    scores: dict[str, list[float | None]] = {"mse": [0.1, 0.12, 0.14, 0.16], "ssim": [0.1, 0.2, 0.3, None]}
    words = "the mean image"
    return [
        GuessFacts(kind="mean-image", words=words, scores=scores, recognisable=[False, False, False, None])
    ]


def findings() -> list[Finding]:
    """Baseline leaks 3 of 4; dp leaks none; prune has failures; the control reaches 2 of 2."""
    return [
        *control(0.9, 0.95),
        finding("none", 1, 0, 0, ssim=0.9),
        finding("none", 1, 1, 0, ssim=0.7),
        finding("none", 2, 0, 0, ssim=0.8),
        finding("none", 2, 1, 0, ssim=0.2),
        finding("dp", 1, 0, 0, ssim=0.05),
        finding("dp", 1, 1, 0, ssim=0.02),
        finding("dp", 2, 0, 0, ssim=0.01),
        finding("dp", 2, 1, 0, ssim=0.03),
        finding("prune:0.9", 1, 0, 0, ssim=0.3),
        failure("prune:0.9", 1, 1, 0),
        failure("prune:0.9", 2, 0, None, status="client-failed", reason=f"the client failed: {HOSTILE}"),
        failure("prune:0.9", 2, 1, 0, status="unscored", reason="the reconstruction contains NaN or inf"),
    ]


def summary() -> Summary:
    """The summary of `findings`."""
    hostile = ClientFacts(
        client=0,
        rounds_participated=1,
        in_clear={HOSTILE: HOSTILE, "train-loss": float("nan"), "num-examples": 2},
        failures=[ClientFailure(round=2, reason=HOSTILE)],
    )
    defenses = [
        defense("none"),
        defense("dp", params={"noise_multiplier": 2.0}, epsilon=5.8, delta=1e-5, privacy="one client's data"),
        defense("prune:0.9", clients=[hostile, ClientFacts(client=1)]),
    ]
    return summarise(findings(), facts(), defenses, guesses())


def write_run(root: Path, lines: list[Finding], whole: Summary) -> None:
    """Write the JSON and a different picture for each path, but equal originals under every defense."""
    write_findings(root / "findings.jsonl", lines)
    write_summary(root / "summary.json", whole)
    for line in lines:
        for path, who in ((line.original, "original"), (line.reconstruction, line.defense)):
            if path is not None:
                code = f"{who} {line.round} {line.client} {line.image} {line.defense == 'control'}"
                generator = torch.Generator().manual_seed(
                    sum(ord(c) * 31**i for i, c in enumerate(code)) % 2**31
                )
                write_png(root / path, torch.rand(1, 8, 8, generator=generator))

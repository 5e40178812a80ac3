"""What the capture stage measured of one defense's federation; written last, the sign that it is complete."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from fl_audit.core.files import read_model, write_json
from fl_audit.core.training import Exposure
from fl_audit.core.units import Defense, PrivacySpent
from fl_audit.reports.schema import ClientFacts, DefenseFacts, OwnProtection, SeenRound, Utility
from fl_audit.run.config import RunConfig
from fl_audit.run.folder import RunFolder, slugs
from fl_audit.run.seen import seen_by_client
from fl_audit.strategies.defenses import defenses

DELTA = 1e-5
"""Epsilon is stated at this delta; below one over the number of clients of any federation audited here."""


class FederationRecord(BaseModel):
    """``captures/DEFENSE/federation.json``.

    ``exposures`` says, by client, how often its examples enter a round's training; empty if not known.
    ``own`` is what an audited app protects updates by, as far as found; null where no app of somebody's ran.
    ``elsewhere`` says that somebody's own federation was recorded: what it protects by is not known here.
    ``server_sees`` is what the server sees of it where that is not each update.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    utility: Utility
    clients: list[ClientFacts]
    exposures: list[Exposure] = []
    own: list[OwnProtection] | None = None
    elsewhere: bool = False
    server_sees: str = ""


def write_record(path: Path, record: FederationRecord) -> None:
    """Write one record."""
    write_json(path, record.model_dump(mode="json"))


def defense_facts(folder: RunFolder, config: RunConfig) -> list[DefenseFacts]:
    """Every defense of the run with its guarantee, its cost and its clients.

    Raises:
        CaptureError: a federation has not finished, or its record is damaged.
    """
    return [
        _with_seen(
            _facts(spec, slug, defenses.create(spec), _read(folder.federation(slug))),
            seen_by_client(folder, slug),
        )
        for spec, slug in slugs(config.defense_specs()).items()
    ]


def _read(path: Path) -> FederationRecord:
    return read_model(path, FederationRecord, "a federation's record")


def _facts(spec: str, slug: str, defense: Defense, record: FederationRecord) -> DefenseFacts:
    clients, worst = [], None
    for client in record.clients:
        spent = _spent(defense, record, client)
        clients.append(client.model_copy(update={"epsilon": _finite(spent.epsilon) if spent else None}))
        if spent is not None and (worst is None or spent.epsilon > worst[0].epsilon):
            worst = spent, client.rounds_participated or 0
    spent, rounds = worst or (None, 0)
    words = "no differential-privacy guarantee"
    if spent is not None and _finite(spent.epsilon) is None:
        words = f"too little noise for any guarantee over {rounds} rounds"
    elif spent is not None:
        words = f"protects {spent.unit}, over {rounds} rounds; {spent.accountant}"
    return DefenseFacts(
        name=spec,
        slug=slug,
        baseline=defense.name == "none",
        description=defense.describe(),
        params=defense.params(),
        epsilon=_finite(spent.epsilon) if spent else None,
        delta=spent.delta if spent else None,
        privacy=words,
        against_server=spent is None or spent.against_server,
        own=record.own,
        elsewhere=record.elsewhere,
        server_sees=" ".join(filter(None, (record.server_sees, defense.sees()))),
        utility=record.utility,
        clients=clients,
    )


def _spent(defense: Defense, record: FederationRecord, client: ClientFacts) -> PrivacySpent | None:
    """What one client spent: by its updates as a whole, else by its examples one by one."""
    rounds = client.rounds_participated or 0
    whole = defense.privacy(rounds=rounds, delta=DELTA)
    if whole is not None or client.client >= len(record.exposures):
        return whole
    return defense.example_privacy(record.exposures[client.client], rounds=rounds, delta=DELTA)


def _with_seen(facts: DefenseFacts, seen: Mapping[int, list[SeenRound]]) -> DefenseFacts:
    """The facts with what the server saw of each client's attacked updates."""
    clients = [client.model_copy(update={"seen": seen.get(client.client, [])}) for client in facts.clients]
    return facts.model_copy(update={"clients": clients})


def _finite(value: float) -> float | None:
    return value if value < float("inf") else None

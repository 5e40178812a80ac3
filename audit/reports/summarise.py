"""From findings to the summary: counts, rates, intervals. Pure: no files, no clock, no global state."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from fl_audit.core.seeding import derive_seed
from fl_audit.metrics import leak_rate
from fl_audit.reports._base import CONTROL, rounded
from fl_audit.reports.frontier import frontier_of
from fl_audit.reports.items import items_of, reasons_of
from fl_audit.reports.order import by_name, closest, leak_key
from fl_audit.reports.schema import (
    AttackLeak,
    ClientFacts,
    ClientSummary,
    Controls,
    DefenseFacts,
    DefenseSummary,
    Finding,
    GuessFacts,
    GuessSummary,
    MetricFacts,
    MetricStats,
    PositiveControl,
    RoundLeak,
    RunFacts,
    Summary,
    WorstImage,
)

QUANTILES = {"p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95}

POWER_WORDS = {
    "yes": "the attack has power here",
    "partly": "the attack has power here only in part",
    "no": "the attack has no power here",
    "unknown": "the power of the attack here is unknown: the control itself could not be graded",
}


def summarise(
    findings: Sequence[Finding],
    facts: RunFacts,
    defenses: Sequence[DefenseFacts],
    guesses: Sequence[GuessFacts] = (),
) -> Summary:
    """Compute everything the report shows.

    Args:
        findings: all lines, those of the positive control (defense ``control``) included.
        facts: the circumstances of the run.
        defenses: each defense with its clients, in the order of the report.
        guesses: scores of the negative control, one entry per kind of guess.

    Raises:
        ValueError: a finding names a defense that ``defenses`` does not have.
    """
    known = {defense.name for defense in defenses} | {CONTROL}
    unknown = sorted({finding.defense for finding in findings} - known)
    if unknown:
        raise ValueError(f"findings name defenses that are not described: {unknown}")
    counter = _Counter(facts)
    positive = [finding for finding in findings if finding.defense == CONTROL]
    summary = Summary(
        **dict(facts),
        controls=Controls(
            negative={guess.kind: counter.guess(guess) for guess in guesses},
            positive=counter.control(positive) if positive else None,
        ),
        defenses=[
            counter.defense(defense, [finding for finding in findings if finding.defense == defense.name])
            for defense in defenses
        ],
    )
    return summary.model_copy(update={"frontier": frontier_of(summary)})


class _Counter:
    """Counts groups of findings under one run's metrics, rule and seed."""

    def __init__(self, facts: RunFacts) -> None:
        self._metrics = [metric for metric in facts.metrics if metric.per_image]
        self._rule = by_name(facts.metrics).get(facts.recognisability.metric)
        self._attacks = [attack.name for attack in facts.attacks]
        self._seed = derive_seed(facts.seed, "leak-rate")

    def defense(self, defense: DefenseFacts, findings: list[Finding]) -> DefenseSummary:
        accuracy = {entry.round: entry.accuracy for entry in defense.utility.rounds}
        facts = {client.client: client for client in defense.clients}
        numbers = sorted(facts.keys() | {finding.client for finding in findings})
        rest = dict(defense)
        del rest["clients"]
        return DefenseSummary(
            **rest,
            **self._leak(findings),
            attacks=self._by_attack(findings),
            rounds=self._by_round(findings, accuracy),
            clients=[
                self._client(
                    facts.get(number, ClientFacts(client=number)), [f for f in findings if f.client == number]
                )
                for number in numbers
            ],
        )

    def control(self, findings: list[Finding]) -> PositiveControl:
        leak = self._leak(findings)
        tried = len(items_of(findings))
        if not leak["graded"]:
            power = "unknown"
        elif not leak["recognisable"]:
            power = "no"
        else:
            power = "yes" if leak["recognisable"] == tried else "partly"
        best = (min(item.graded, key=self._key) for item in items_of(findings) if item.graded)
        return PositiveControl(
            **leak,
            power=power,
            verdict=POWER_WORDS[power],
            attacks=self._by_attack(findings),
            rounds=self._by_round(findings, {}),
            reasons=reasons_of(findings),
            pictures=[_picture(finding) for finding in best],
        )

    def guess(self, guess: GuessFacts) -> GuessSummary:
        judged = [verdict for verdict in guess.recognisable if verdict is not None]
        return GuessSummary(
            words=guess.words,
            images=len(guess.recognisable),
            graded=len(judged),
            recognisable=sum(judged),
            leak_rate=_share(sum(judged), len(judged)),
            metrics={
                metric.name: _stats(metric, guess.scores.get(metric.name, [])) for metric in self._metrics
            },
        )

    def _client(self, facts: ClientFacts, findings: list[Finding]) -> ClientSummary:
        graded = [finding for finding in findings if finding.status == "graded"]
        return ClientSummary(
            **dict(facts),
            **self._leak(findings),
            reasons=reasons_of(findings),
            worst=_picture(min(graded, key=self._key)) if graded else None,
            rounds=self._by_round(findings, {}),
        )

    def _by_round(self, findings: list[Finding], accuracy: dict[int, float | None]) -> list[RoundLeak]:
        rounds = sorted({finding.round for finding in findings})
        return [
            RoundLeak(
                round=number,
                accuracy=accuracy.get(number),
                **self._leak([finding for finding in findings if finding.round == number]),
            )
            for number in rounds
        ]

    def _by_attack(self, findings: list[Finding]) -> list[AttackLeak]:
        present = {finding.attack for finding in findings}
        names = [name for name in self._attacks if name in present]
        names += sorted(present.difference(names))
        return [
            AttackLeak(attack=name, **self._leak([f for f in findings if f.attack == name])) for name in names
        ]

    def _leak(self, findings: list[Finding]) -> dict[str, Any]:
        """The fields of `Leak`."""
        items = items_of(findings)
        graded = [item for item in items if item.graded]
        recognisable = [item.recognisable for item in graded]
        rate, interval, method, independent = None, None, None, 0.0
        if graded:
            found = leak_rate(recognisable, [item.update for item in graded], self._seed)
            rate, method, independent = rounded(found.rate), found.method, rounded(found.independent)
            interval = (rounded(found.low), rounded(found.high))
        return {
            "images": sum(item.image is not None for item in items),
            "graded": len(graded),
            "recognisable": sum(recognisable),
            "updates": len({item.update for item in graded}),
            "updates_recognised": len({item.update for item in graded if item.recognisable}),
            "independent": independent,
            "leak_rate": rate,
            "leak_rate_ci": interval,
            "ci_method": method,
            "failed": dict(sorted(Counter(i.failure for i in items if i.failure is not None).items())),
            "aggregate_of": sorted({f.aggregate_of for f in findings if f.aggregate_of is not None}),
            "partly_failed": sum(len(item.graded) < len(item.findings) for item in graded),
            "metrics": {
                metric.name: _stats(
                    metric, [closest(metric, (f.metrics.get(metric.name) for f in i.graded)) for i in graded]
                )
                for metric in self._metrics
            },
        }

    def _key(self, finding: Finding) -> Any:
        return leak_key(finding, self._rule)


def _picture(finding: Finding) -> WorstImage:
    shared = {name: getattr(finding, name) for name in WorstImage.model_fields}
    return WorstImage(**shared)


def _stats(metric: MetricFacts, values: Sequence[float | None]) -> MetricStats:
    measured = [value for value in values if value is not None]
    if not measured:
        return MetricStats(n=0)
    worst = closest(metric, measured)
    points = np.quantile(np.asarray(measured, dtype=np.float64), list(QUANTILES.values()))
    return MetricStats(
        n=len(measured),
        mean=rounded(float(np.mean(measured))),
        worst=None if worst is None else rounded(worst),
        quantiles={name: rounded(float(point)) for name, point in zip(QUANTILES, points, strict=True)},
    )


def _share(part: int, whole: int) -> float | None:
    return rounded(part / whole) if whole else None

"""``report.html`` and ``clients/client-02.html``: self-contained pages from the JSON and PNG files alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fl_audit.core.files import write_text
from fl_audit.reports import words
from fl_audit.reports.caveats import caveats
from fl_audit.reports.channels import channels
from fl_audit.reports.charts import accuracy_by_round, leak_by_round
from fl_audit.reports.frontier import frontier_of
from fl_audit.reports.frontier_chart import frontier_chart, legend_of
from fl_audit.reports.glossary import glossary
from fl_audit.reports.limits import limits
from fl_audit.reports.order import beyond_guess, guess_level
from fl_audit.reports.page import page_name, render_page
from fl_audit.reports.pictures import Album, control_pairs, gallery
from fl_audit.reports.problems import problems
from fl_audit.reports.schema import (
    ClientSummary,
    Finding,
    MetricFacts,
    Summary,
    read_findings,
    read_summary,
)
from fl_audit.reports.verdict import control_sentence, headline, judge, judge_defense, overall

FRONTIER_TITLE = "Share of images recognised against accuracy, by setting"
MANY = 30
"""Clients up to which the report lists them by number; with more it begins with those that leaked most."""


def build_reports(run_dir: Path) -> list[Path]:
    """Write the report and one page for each client that was attacked or failed.

    Args:
        run_dir: a graded run folder; only ``summary.json``, ``findings.jsonl`` and PNGs are read.

    Returns:
        The pages written, the report first.

    Raises:
        CaptureError: the JSON is missing or damaged; names the file.
    """
    summary = read_summary(run_dir / "summary.json")
    findings = read_findings(run_dir / "findings.jsonl")
    clients = _clients(summary)
    pages = {run_dir / "report.html": _report(run_dir, summary, findings, clients)}
    for client in clients:
        path = run_dir / "clients" / page_name(client)
        pages[path] = _client_page(run_dir, summary, findings, client)
    for path, text in pages.items():
        write_text(path, text)
    return list(pages)


def _report(run_dir: Path, summary: Summary, findings: Sequence[Finding], clients: list[int]) -> str:
    album = Album(run_dir)
    positive = summary.controls.positive
    shown = control_pairs(album, positive.pictures if positive is not None else [])
    rounds = [(words.title(defense), defense.rounds) for defense in summary.defenses]
    frontier = frontier_of(summary)
    return _render(
        "report.html.j2",
        summary,
        frontier=frontier,
        frontier_chart=frontier_chart([frontier], title=FRONTIER_TITLE),
        frontier_keys=legend_of([frontier]),
        verdicts=[(defense, judge_defense(defense, summary)) for defense in summary.defenses],
        headline=headline(summary),
        control_sentence=control_sentence(positive),
        caveats=caveats(summary),
        round_groups=rounds,
        leak_chart=leak_by_round(rounds, "Share of images recognised in each round, by defense"),
        accuracy_chart=accuracy_by_round(summary.defenses),
        control_pictures=shown,
        gallery=gallery(album, findings, summary, every_attack=False),
        clients=_ranked(summary, clients),
        many=len(clients) > MANY,
        client_cells=_cells(summary),
        problems=problems(summary),
        channels=channels(summary),
        glossary=glossary(summary),
        limits=limits(summary),
        prefix="",
    )


def _client_page(run_dir: Path, summary: Summary, findings: Sequence[Finding], client: int) -> str:
    cells = _cells(summary)
    parts = [
        (defense, cells[defense.name, client])
        for defense in summary.defenses
        if (defense.name, client) in cells
    ]
    rounds = [(words.title(defense), part.rounds) for defense, part in parts]
    own = [finding for finding in findings if finding.client == client]
    positive = summary.controls.positive
    verdicts = [(defense, judge(part, words.circumstance(defense), summary)) for defense, part in parts]
    kinds = [(words.circumstance(defense), verdict.kind) for defense, verdict in verdicts]
    return _render(
        "client.html.j2",
        summary,
        client=client,
        parts=parts,
        verdicts=verdicts,
        headline=overall(f"client {client}\N{RIGHT SINGLE QUOTATION MARK}s images", kinds),
        control_sentence=control_sentence(positive),
        round_groups=rounds,
        caveats=caveats(summary),
        leak_chart=leak_by_round(rounds, f"Share of client {client}'s images recognised in each round"),
        gallery=gallery(Album(run_dir), own, summary, every_attack=True),
        channels=channels(summary, client),
        problems=problems(summary, client),
        prefix="../",
    )


def _clients(summary: Summary) -> list[int]:
    """Clients that were attacked, or failed: those there is something to say about."""
    return sorted(
        {
            client.client
            for defense in summary.defenses
            for client in defense.clients
            if client.graded or client.failed_count or client.failures
        }
    )


def _ranked(summary: Summary, clients: list[int]) -> list[int]:
    """The clients by number; where they are many, those that leaked most first."""
    if len(clients) <= MANY:
        return clients
    rates = {client: 0.0 for client in clients}
    for (_, client), cell in _cells(summary).items():
        if client in rates:
            rates[client] = max(rates[client], cell.leak_rate or 0.0)
    return sorted(clients, key=lambda client: (-rates[client], client))


def _cells(summary: Summary) -> dict[tuple[str, int], ClientSummary]:
    return {
        (defense.name, client.client): client for defense in summary.defenses for client in defense.clients
    }


def _render(name: str, summary: Summary, **context: Any) -> str:
    measured = [metric for metric in summary.metrics if metric.per_image and metric.unavailable is None]
    measured.sort(key=lambda metric: not metric.brief)
    levels = {metric.name: guess_level(metric, summary.controls.negative.values()) for metric in measured}

    def surpasses(metric: MetricFacts, value: float | None) -> bool:
        return bool(beyond_guess(metric, value, levels[metric.name]))

    return render_page(
        name,
        s=summary,
        measured=measured,
        brief=[metric for metric in measured if metric.brief],
        sets={metric.name: metric for metric in summary.metrics if not metric.per_image},
        unmeasured=[metric for metric in summary.metrics if metric.unavailable is not None],
        guess_levels=levels,
        levels_known=any(level is not None for level in levels.values()),
        surpasses=surpasses,
        **context,
    )

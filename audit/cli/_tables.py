"""The closing tables of a run, from its summary alone."""

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fl_audit.cli._guarantee import guarantee
from fl_audit.cli._live import plain
from fl_audit.reports.caveats import caveats
from fl_audit.reports.frontier import frontier_of
from fl_audit.reports.order import by_name, guess_level
from fl_audit.reports.schema import ClientSummary, DefenseSummary, Leak, MetricFacts, MetricStats, Summary
from fl_audit.reports.verdict import Kind, control_sentence, headline, judge_defense
from fl_audit.reports.words import aggregate, count, number, percent, rate, title

PLAIN_WIDTH = 120
MAX_CLIENTS = 20
_STYLES: dict[Kind, str] = {"leaks": "bold red", "none-found": "green", "not-shown": "yellow"}


def print_summary(summary: Summary, root: Path, console: Console | None = None) -> None:
    """Print the verdict, a table of the defenses, one of the clients, and where the report lies."""
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, PLAIN_WIDTH)
    console.print()
    console.print(Text(plain(headline(summary), 4000), style="bold"))
    for defense in summary.defenses:
        verdict = judge_defense(defense, summary)
        console.print(Text(f"  {plain(verdict.text, 4000)}", style=_STYLES[verdict.kind]))
    console.print(Text(f"  {control_sentence(summary.controls.positive)}"))
    for caveat in caveats(summary):
        console.print(Text(f"  {plain(caveat, 4000)}", style="dim"))
    console.print(_defenses(summary))
    for defense in summary.defenses:
        if defense.server_sees:
            console.print(Text(f"  {plain(title(defense))}: {plain(defense.server_sees, 4000)}", style="dim"))
    if len(summary.defenses) > 1:
        frontier = frontier_of(summary)
        for text in (frontier.conclusion, *frontier.doubts):
            console.print(Text(plain(text, 4000)))
    console.print(_closest(summary))
    console.print(_clients(summary))
    left = _not_shown(summary)
    if left:
        console.print(Text(left, style="dim"))
    console.print(Text(f"Report: {root / 'report.html'}"), soft_wrap=True)
    console.print(Text(f"For scripts: {root / 'summary.json'}, {root / 'findings.jsonl'}"), soft_wrap=True)


def _defenses(summary: Summary) -> Table:
    table = _table("Defenses")
    table.add_column("defense", overflow="fold")
    table.add_column("verdict", no_wrap=True)
    for heading in ("leak rate (95% CI)", "recognised", "not graded", "accuracy", "epsilon"):
        table.add_column(heading, justify="right", no_wrap=True)
    for defense in summary.defenses:
        verdict = judge_defense(defense, summary)
        table.add_row(
            Text(plain(title(defense))),
            Text(verdict.label, style=_STYLES[verdict.kind]),
            rate(defense),
            f"{defense.recognisable} of {defense.graded}",
            Text(_lost(defense), style="yellow" if defense.failed_count else ""),
            percent(defense.utility.accuracy),
            guarantee(defense),
        )
    return table


def _closest(summary: Summary) -> Table:
    """The worst case by every metric, and the level of a guess to read it by."""
    measured = [
        metric
        for metric in summary.metrics
        if metric.per_image and metric.brief and metric.unavailable is None
    ]
    table = _table("Closest reconstruction (the worst case)")
    table.add_column("defense", overflow="fold")
    for metric in measured:
        table.add_column(Text(plain(metric.label, 24)), justify="right", no_wrap=True)
    for defense in summary.defenses:
        table.add_row(Text(plain(title(defense))), *(_worst(metric, defense) for metric in measured))
    guesses = summary.controls.negative.values()
    levels = (number(guess_level(metric, guesses)) for metric in measured)
    table.add_row(Text("95% of guesses do worse than"), *levels, style="dim")
    return table


def _clients(summary: Summary) -> Table:
    table = _table("Clients: images recognised, and the worst image")
    table.add_column("client", justify="right")
    for defense in summary.defenses:
        table.add_column(Text(plain(title(defense))), justify="right", overflow="fold")
    rule = by_name(summary.metrics).get(summary.recognisability.metric)
    for client in _chosen(summary):
        cells = (_cell(_find(defense, client), rule) for defense in summary.defenses)
        table.add_row(str(client), *cells)
    return table


def _cell(client: ClientSummary | None, rule: MetricFacts | None) -> Text:
    if client is None or not (client.graded or client.failed_count):
        return Text("not attacked", style="dim")
    if not client.graded:
        return Text(f"not graded ({_lost(client)})", style="yellow")
    text = Text(f"{client.recognisable} of {client.graded}", style="bold red" if client.recognisable else "")
    if rule is not None and client.worst is not None:
        text.append(f"  {plain(rule.label, 24)} {number(client.worst.metrics.get(rule.name))}", style="dim")
    if client.aggregate_of:
        text.append(f"  in {aggregate(client.aggregate_of)}", style="dim")
    if client.failed_count:
        text.append(f"  {_lost(client)}", style="yellow")
    return text


def _lost(leak: Leak) -> str:
    """How many images were not graded: those that failed, and apart from them those that nobody tried."""
    tried = leak.failed_count - leak.not_attempted
    parts = [f"{tried} failed"] if tried else []
    parts += [f"{leak.not_attempted} not attempted"] if leak.not_attempted else []
    return ", ".join(parts) or "0"


def _chosen(summary: Summary) -> list[int]:
    """The clients to show, by number; where they are too many, those that leaked most."""
    clients = _all_clients(summary)
    ranked = sorted(clients, key=lambda number: (-clients[number], number))
    return sorted(ranked[:MAX_CLIENTS])


def _not_shown(summary: Summary) -> str:
    left = len(_all_clients(summary)) - MAX_CLIENTS
    return f"{count(left, 'client')} that leaked less stand in the report." if left > 0 else ""


def _all_clients(summary: Summary) -> dict[int, float]:
    """Clients of which anything is known from an attack, with their highest leak rate."""
    found: dict[int, float] = {}
    for defense in summary.defenses:
        for client in defense.clients:
            if client.graded or client.failed_count:
                found[client.client] = max(found.get(client.client, 0.0), client.leak_rate or 0.0)
    return found


def _find(defense: DefenseSummary, client: int) -> ClientSummary | None:
    return next((entry for entry in defense.clients if entry.client == client), None)


def _worst(metric: MetricFacts, leak: Leak) -> str:
    return number(leak.metrics.get(metric.name, MetricStats(n=0)).worst)


def _table(heading: str) -> Table:
    return Table(title=heading, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)

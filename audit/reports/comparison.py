"""Several runs side by side: what differs between them, and one frontier over those that were measured alike.

Settings of runs that differ in data, model, federation, training, threat model or attack are shown in one
picture, but they have a Pareto front and a weakest setting of their own: what one data set costs says nothing
about another.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from fl_audit.core.errors import ConfigError
from fl_audit.core.files import write_json, write_text
from fl_audit.reports._base import SCHEMA_VERSION, Model
from fl_audit.reports.frontier import Setting, frontier, guess_rate, setting_of
from fl_audit.reports.frontier_chart import frontier_chart, legend_of
from fl_audit.reports.frontier_facts import Frontier
from fl_audit.reports.page import render_page
from fl_audit.reports.schema import Summary, read_summary
from fl_audit.reports.verdict import control_sentence, headline
from fl_audit.reports.words import count, listing, params, spans

MOST_SETTINGS = 500
"""Settings in one comparison; a picture of more shows nothing, and their fronts take long."""

CHART_TITLE = "Share of images recognised against accuracy, by setting, all runs"


class ComparedRun(Model):
    """One run of a comparison."""

    letter: str
    name: str = Field(description="its folder")
    run_id: str
    headline: str
    control: str = Field(description="what its positive control says")
    guess_rate: float | None = Field(description="what guesses reach in it")


class Difference(Model):
    """Something in which the runs are not alike."""

    what: str
    matters: bool = Field(description="whether leak rates and accuracies are no longer measured alike")
    values: list[str] = Field(description="one for each run")


class Group(Model):
    """Runs that were measured alike, with the frontier over all their settings."""

    runs: list[str]
    frontier: Frontier


class Comparison(Model):
    """``compare.json``."""

    schema_version: Literal[1] = SCHEMA_VERSION
    runs: list[ComparedRun]
    differences: list[Difference]
    groups: list[Group]
    versions: dict[str, str | None] = {}

    @property
    def alike(self) -> bool:
        """Whether all runs were measured alike."""
        return len(self.groups) == 1


def compare_folders(folders: Sequence[Path]) -> Comparison:
    """Compare graded run folders; only their ``summary.json`` is read.

    Raises:
        ConfigError: fewer than two, or the same one twice.
        CaptureError: a summary is missing or damaged; names the file.
    """
    if len(folders) < 2:
        raise ConfigError("compare: expected at least two run folders, e.g. fl-audit compare RUN-1 RUN-2")
    seen: dict[Path, Path] = {}
    for folder in folders:
        if folder.resolve() in seen:
            raise ConfigError(f"compare: {folder} is given twice")
        seen[folder.resolve()] = folder
    return compare([(_name(folder), read_summary(folder / "summary.json")) for folder in folders])


def compare(runs: Sequence[tuple[str, Summary]]) -> Comparison:
    """Compare summaries, each with the name of its run.

    Raises:
        ConfigError: together they have more than `MOST_SETTINGS` settings.
    """
    total = sum(len(summary.defenses) for _, summary in runs)
    if total > MOST_SETTINGS:
        raise ConfigError(f"compare: {total} settings, over the limit of {MOST_SETTINGS}; compare fewer runs")
    letters = [_letter(place) for place in range(len(runs))]
    summaries = [summary for _, summary in runs]
    differences = [
        Difference(what=what, matters=matters, values=values)
        for what, matters, say in _ASPECTS
        if len(set(values := [say(summary) for summary in summaries])) > 1
    ]
    groups: dict[tuple[str, ...], list[int]] = {}
    for place in range(len(runs)):
        key = tuple(difference.values[place] for difference in differences if difference.matters)
        groups.setdefault(key, []).append(place)
    return Comparison(
        runs=[
            ComparedRun(
                letter=letter,
                name=name,
                run_id=summary.run_id,
                headline=headline(summary),
                control=control_sentence(summary.controls.positive),
                guess_rate=guess_rate(summary.controls),
            )
            for letter, (name, summary) in zip(letters, runs, strict=True)
        ],
        differences=differences,
        groups=[
            Group(
                runs=[letters[place] for place in places],
                frontier=frontier(_settings({letters[place]: summaries[place] for place in places})),
            )
            for places in groups.values()
        ],
        versions=summaries[0].versions,
    )


def write_comparison(out: Path, found: Comparison) -> list[Path]:
    """Write ``compare.json`` and ``compare.html`` into the folder ``out``; returns their paths."""
    page, data = out / "compare.html", out / "compare.json"
    write_json(data, found.model_dump(mode="json"))
    write_text(page, render_comparison(found))
    return [page, data]


def render_comparison(found: Comparison) -> str:
    """The page, self-contained, in the style of the report."""
    frontiers = [group.frontier for group in found.groups]
    rates = [one.guess_rate for one in frontiers if one.guess_rate is not None]
    return render_page(
        "compare.html.j2",
        c=found,
        frontiers=frontiers,
        chart=frontier_chart(frontiers, title=CHART_TITLE),
        keys=legend_of(frontiers),
        guess_rate=max(rates, default=None),
        chosen=any(one.weakest is not None for one in frontiers),
        settings=sum(len(one.points) for one in frontiers),
    )


def _settings(summaries: Mapping[str, Summary]) -> list[Setting]:
    """All settings; a baseline that several runs share, figure for figure, is one."""
    found: list[Setting] = []
    for letter, summary in summaries.items():
        for defense in summary.defenses:
            same = next(
                (
                    place
                    for place, other in enumerate(found)
                    if defense.baseline and other.defense == defense and other.controls == summary.controls
                ),
                None,
            )
            if same is None:
                found.append(setting_of(defense, summary, letter))
            else:
                shared = found[same]
                found[same] = replace(shared, run=f"{shared.run}, {letter}")
    return found


def _attacks(summary: Summary) -> str:
    return listing(
        [f"{unit.name} ({params(unit.params)})" if unit.params else unit.name for unit in summary.attacks]
    )


_ASPECTS: Sequence[tuple[str, bool, Callable[[Summary], str]]] = (
    (
        "data",
        True,
        lambda s: (
            f"{s.dataset.name}: {count(s.dataset.images, 'image')}, "
            f"{' x '.join(map(str, s.dataset.shape))}, {count(len(s.dataset.classes), 'class', 'classes')}, "
            f"partition {s.dataset.partition}"
        ),
    ),
    (
        "model",
        True,
        lambda s: (
            f"{s.model.name}, {count(s.model.parameters, 'parameter')} {params(s.model.params)}".strip()
        ),
    ),
    (
        "federation",
        True,
        lambda s: (
            f"{count(s.federation.clients, 'client')}, {count(s.federation.rounds, 'round')}, "
            f"fraction {s.federation.fraction:g}, strategy {s.federation.strategy}"
        ),
    ),
    ("local training", True, lambda s: params(s.federation.training)),
    (
        "threat model",
        True,
        lambda s: f"level {s.threat_model.level}; granted: {listing(s.threat_model.granted) or 'nothing'}",
    ),
    ("attacks", True, _attacks),
    (
        "what was attacked",
        True,
        lambda s: f"rounds {spans(s.attacked.rounds)}; clients {spans(s.attacked.clients)}",
    ),
    ("rule for recognisable", True, lambda s: s.recognisability.name),
    (
        "least probability that counts",
        False,
        lambda s: "none" if s.recognisability.threshold is None else f"{s.recognisability.threshold:.3g}",
    ),
    ("seed", False, lambda s: str(s.seed)),
    ("engine", False, lambda s: s.federation.engine),
    ("version of fl-audit", False, lambda s: s.versions.get("fl-audit") or "not known"),
)
"""What runs may differ in, whether leak rate and accuracy then mean something else, and how it is said."""


def _letter(place: int) -> str:
    """A, B and so on to Z, then A2, B2."""
    turn, rest = divmod(place, 26)
    return f"{chr(ord('A') + rest)}{turn + 1 if turn else ''}"


def _name(folder: Path) -> str:
    return folder.resolve().name or str(folder)

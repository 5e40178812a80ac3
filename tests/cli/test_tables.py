import io
from pathlib import Path

import pytest
from rich.console import Console

from fl_audit.cli import _tables
from fl_audit.cli._tables import print_summary
from fl_audit.reports.schema import ClientFacts, Summary
from fl_audit.reports.summarise import summarise
from tests.reports import builders
from tests.reports.builders import control, defense, facts, failure, finding


def printed(summary: Summary) -> str:
    file = io.StringIO()
    print_summary(summary, Path("out"), Console(file=file, force_terminal=False, width=80, highlight=False))
    return file.getvalue()


def row(text: str, start: str) -> list[str]:
    return next(line for line in text.splitlines() if line.strip().startswith(start)).split()


def test_the_tables_say_per_defense_and_per_client_what_leaked() -> None:
    text = printed(builders.summary())
    assert "images could be recognised without defense" in text
    assert row(text, "dp  ")[1:4] == ["No", "leak", "found"]
    assert "3 of 4" in text
    assert "5.80" in text
    assert "80%" in text
    clients = text.partition("Clients:")[2]
    assert row(clients, "0  ")[:4] == ["0", "2", "of", "2"]
    assert "1 failed" in clients
    assert str(Path("out") / "report.html") in text
    assert "lpips" not in text.lower()


def test_the_worst_case_stands_beside_what_a_guess_reaches() -> None:
    text = printed(builders.summary()).partition("Closest reconstruction")[2]
    assert row(text, "No defense")[-2:] == ["0.029", "0.900"]
    assert row(text, "95% of guesses")[-2:] == ["0.103", "0.290"]


def test_failures_and_power_are_said() -> None:
    lines = [*control(0.1), finding("none"), failure("dp")]
    text = printed(summarise(lines, facts(), [defense("none"), defense("dp")]))
    assert "has no power here" in text
    assert "nothing could be graded" in text
    assert "not graded (1 failed)" in text
    assert "not measured" in text


def test_names_are_no_markup_and_no_escape_codes() -> None:
    name = "my:[bold]\x1b[31mname"
    text = printed(summarise([finding("x")], facts(), [defense("x"), defense(name)]))
    assert "[bold]" in text
    assert "\x1b" not in text


def test_many_clients_are_cut_to_those_that_leaked_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tables, "MAX_CLIENTS", 3)
    lines = [finding("none", client=number, ssim=0.9 if number == 7 else 0.1) for number in range(8)]
    clients = [ClientFacts(client=number) for number in range(9)]
    text = printed(summarise(lines, facts(), [defense("none", clients=clients)]))
    assert row(text.partition("Clients:")[2], "7  ")[1] == "1"
    assert "5 clients that leaked less stand in the report" in text


def test_what_the_server_still_sees_is_said() -> None:
    seen = defense("dp-server", server_sees="The server gets every update in clear.")
    text = " ".join(printed(summarise([finding("dp-server")], facts(), [seen])).split())
    assert "dp-server: The server gets every update in clear." in text

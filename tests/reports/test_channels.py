from pathlib import Path

from fl_audit.reports import build_reports
from fl_audit.reports.channels import NOT_RECORDED, channels
from fl_audit.reports.schema import ClientFacts, SeenRound, Summary
from fl_audit.reports.seen_facts import BatchNormSeen, LabelsMatch
from fl_audit.reports.summarise import summarise
from tests.reports import builders
from tests.reports.builders import HOSTILE, control, defense, facts, finding

SEEN = [
    SeenRound(
        round=1,
        num_examples=2,
        metrics={"train-loss": 0.5, HOSTILE: HOSTILE},
        update_norm=0.5,
        batch_norm=BatchNormSeen(sent=4, came=4, moved=4, furthest=0.25, steps=3),
        labels=[1, 1],
        labels_match=LabelsMatch(right=1, images=2, exact=False),
    ),
    SeenRound(
        round=2,
        num_examples=8,
        error=f"ValueError: {HOSTILE}",
        stack_trace=True,
        unmeasured=dict.fromkeys(("update_norm", "batch_norm", "labels"), "the client sent no update"),
    ),
]


def summary() -> Summary:
    clients = [ClientFacts(client=0, seen=SEEN), ClientFacts(client=1)]
    found = [*control(0.9), finding("none"), finding("dp"), finding("dp", client=1)]
    return summarise(found, facts(), [defense("none", clients=clients), defense("dp")])


def said(client: int | None = None) -> dict[str, dict[str, str]]:
    return {
        channel.slug: {sighting.settings: sighting.text for sighting in channel.findings}
        for channel in channels(summary(), client)
    }


def test_each_channel_says_what_was_seen() -> None:
    found = {slug: texts["No defense"] for slug, texts in said().items()}
    assert found["examples"] == "2 to 8 in each reply"
    assert "train-loss" in found["metrics"]
    assert found["errors"] == "1 text, 1 with a stack trace, path or address"
    assert found["norms"] == "0.500; not measured in 1 update"
    assert found["statistics"] == (
        "4 of 4 statistics moved in 1 of 1 update, by up to 25%; the counters give away 3 local steps"
    )
    assert found["labels"] == (
        "inferred from 1 of 2 updates; the distribution is exactly the true one in 0 of 1, "
        "1 of 2 labels right"
    )


def test_what_was_not_recorded_is_said_and_equal_findings_are_drawn_together() -> None:
    assert {texts["dp"] for slug, texts in said().items() if slug != "examples"} == {NOT_RECORDED}
    assert said(1) == {slug: {"Every setting": NOT_RECORDED} for slug in said()}


def test_every_channel_means_something_and_can_be_stopped() -> None:
    for channel in channels(summary()):
        assert channel.meaning
        assert channel.stop
        assert "{" not in channel.meaning


def test_pages_show_the_channels_and_escape_what_clients_sent(tmp_path: Path) -> None:
    whole = summary()
    builders.write_run(tmp_path, [finding("none"), finding("dp"), finding("dp", client=1)], whole)
    for path in build_reports(tmp_path):
        text = path.read_text()
        assert "<script" not in text
        assert '<img src="https' not in text
        assert "How to stop it." in text
    client = (tmp_path / "clients" / "client-00.html").read_text()
    assert "not: 1, face: 1" in client
    assert "1 of 2" in client

"""The packaged model card is what the template makes of the packaged file; settings say how to repeat it."""

import re
from pathlib import Path

import pytest

from fl_audit.core.errors import ConfigError
from fl_audit.metrics.recognisability import THRESHOLD
from fl_audit.semsim import packaged
from fl_audit.semsim.card import card
from fl_audit.semsim.evaluation import Agreement
from fl_audit.semsim.settings import Settings
from fl_audit.semsim.weights import PACKAGED_SHA256, card_path, packaged_path


def figures(text: str) -> dict[str, Agreement]:
    rows = re.findall(r"^\| ((?:held-out|judged) [^|]+) \| (.+) \|$", text, re.MULTILINE)
    found = {}
    for name, row in rows:
        pairs, spearman, kendall, auc, ece = map(float, row.split(" | "))
        found[name] = Agreement(pairs=int(pairs), spearman=spearman, kendall=kendall, auc=auc, ece=ece)
    return found


def test_the_packaged_card_is_of_the_packaged_file() -> None:
    text = card_path().read_text(encoding="utf-8")
    assert PACKAGED_SHA256 in text
    assert f"a verdict asks for at least {THRESHOLD}" in text
    assert len(figures(text)) == 5
    assert text == card(packaged(), figures(text), Settings(), packaged_path().stat().st_size)


def test_another_card_says_nothing_of_the_packaged_weights() -> None:
    weights, found = packaged(), figures(card_path().read_text(encoding="utf-8"))
    settings = Settings(seed=1, loss="contrastive", minutes=3.0, without="Caltech-101")
    text = card(weights, found, settings, 1)
    assert "Not the weights that come with fl-audit" in text
    assert "Left out of training: Caltech-101" in text
    assert "Loss: contrastive" in text
    assert "triplet margin" not in text
    assert "Version 6 had" not in text
    assert "median" not in text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Settings(), "--seed 0"),
        (Settings(scale=0.5, seed=3), "--scale 0.5 --seed 3"),
        (Settings(without="CIFAR-10 (JPEG)"), "--seed 0 --without 'CIFAR-10 (JPEG)'"),
        (
            Settings(reconstructions=Path("/home/me/x"), backbone="lite"),
            "--reconstructions FOLDER --backbone lite --seed 0",
        ),
    ],
)
def test_the_command_says_what_differs(settings: Settings, said: str) -> None:
    assert settings.command() == f"python -m fl_audit.semsim.recipe --data DIR {said}"
    assert settings.packaged == (said == "--seed 0")


def test_steps_and_seeds() -> None:
    assert Settings().steps == 1000
    assert Settings(scale=1e-9).steps == 1
    assert Settings(seed=2).seeds == [4, 5]
    assert Settings(seed=2, backbone="lite").seeds == [2]
    with pytest.raises(ConfigError, match="leave out --reconstructions"):
        Settings(reconstructions=Path("x"), without="Caltech-101")

from pathlib import Path

import pytest

from fl_audit.cli._session import over_limit
from fl_audit.cli.main import _run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["run", "--defense", "prunee:0.5"],
            ["unknown defense 'prunee'", "Did you mean 'prune'", "clip, dp"],
        ),
        (["run", "--attack", "dgl"], ["unknown attack 'dgl'", "Did you mean 'dlg'", "inverting-gradients"]),
        (["run", "--dataset", "face"], ["'face'", "faces"]),
        (["run", "--model", "lenet5"], ["'lenet5'", "lenet"]),
        (["run", "--strategy", "fedavgg"], ["'fedavgg'", "fedavg"]),
        (["run", "--clients", "0"], ["--clients", "greater than or equal to 1", "0"]),
        (["run", "--defense", "noise:-1"], ["noise:-1", "sigma", "greater than"]),
        (["run", "--defense", "prune:1.5"], ["prune:1.5", "fraction", "less than"]),
        (["run", "--attack-rounds", "49"], ["--attack-rounds", "only 40"]),
        (["run", "--set", "threat.level=A"], ["needs", "threat level A", "threat.level=B"]),
        (["run", "--set", "training.bach_size=2"], ["training.bach_size", "batch_size"]),
        (["run", "--nonsense"], ["--nonsense"]),
        (["run", "none.yaml"], ["none.yaml", "no such"]),
        (["run", "--resume", "nowhere"], ["nowhere", "not a run folder"]),
        (["run", "--resume", "nowhere", "--seed", "1"], ["--resume", "seed"]),
        (["run", "--fail-above", "2"], ["--fail-above"]),
        (["run", "--device", "cuda:99"], ["--device", "cuda:99", "auto"]),
        (["list", "attack"], ["attack", "attacks"]),
        (["grade", "nowhere"], ["nowhere", "not a run folder"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and "run" in value[:1] else None,
)
def test_bad_usage_exits_2_and_says_what_is_valid(
    arguments: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _run(arguments) == 2
    said = capsys.readouterr().err
    for word in words:
        assert word in said
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


def test_an_occupied_folder_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert _run(["run", "--out", str(tmp_path)]) == 2
    assert "--resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    "kind", ["attacks", "defenses", "metrics", "datasets", "partitioners", "models", "strategies"]
)
def test_list_names_every_unit(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    known = {
        "attacks": "inverting-gradients",
        "defenses": "prune",
        "metrics": "ssim",
        "datasets": "faces",
        "partitioners": "dirichlet",
        "models": "resnet20-4",
        "strategies": "fedavg",
    }
    assert _run(["list", kind, "-v"]) == 0
    assert known[kind] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "example", "argument"),
    [
        ("run", "fl-audit run --resume fl-audit-run", "YAML file with settings"),
        ("app", "fl-audit app my-app --engine ray --clients 8", "Folder of a Flower app"),
        ("metrics", "fl-audit metrics originals reconstructions", "Folder of original images"),
    ],
)
def test_help_has_examples_to_copy_and_says_what_arguments_are(
    command: str,
    example: str,
    argument: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    assert _run([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert example in [line.strip() for line in out.splitlines()], "a line of its own"
    assert argument in out


def test_help_keeps_what_stands_in_brackets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert _run(["semsim", "train", "--help"]) == 0
    assert "pip install 'fl-audit[semsim]'" in capsys.readouterr().out, "not taken for a colour"


def test_print_config_prints_what_can_be_edited(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["run", "--scenario", "typical", "--print-config"]) == 0
    out = capsys.readouterr().out
    assert "scenario: typical" in out
    assert "batch_size: 8" in out


def test_doctor_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["doctor"]) == 0
    out = capsys.readouterr().out
    for word in ("torch", "GPU", "lpips", "ssim"):
        assert word in out


def test_an_unmeasured_leak_rate_is_over_the_limit() -> None:
    assert over_limit({"dp": 0.1}, None) == 0
    assert over_limit({"dp": 0.1}, 0.2) == 0
    assert over_limit({"dp": 0.3}, 0.2) == 3
    assert over_limit({"dp": None}, 0.2) == 3

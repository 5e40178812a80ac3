from pathlib import Path

import pytest

from fl_audit.core.errors import ConfigError, KnowledgeError
from fl_audit.run.config import SCENARIOS
from fl_audit.run.facts import attacked_rule
from fl_audit.run.load import dump_config, parse_settings, resolve_config


def test_defaults_are_the_worst_case() -> None:
    config = resolve_config(None, {})
    assert config.threat.level == "C"
    assert config.threat.labels
    assert config.training.local_steps == 1
    assert config.defense_specs() == ["none"]


def test_precedence_is_defaults_scenario_file_command_line(tmp_path: Path) -> None:
    file = tmp_path / "audit.yaml"
    file.write_text("scenario: typical\ntraining:\n  batch_size: 3\nseed: 5\n")
    config = resolve_config(file, {"seed": 6})
    assert (config.training.batch_size, config.seed) == (3, 6)
    assert config.threat.level == SCENARIOS["typical"]["threat"]["level"]
    assert config.training.local_epochs == 1


def test_one_length_of_local_training_unsets_the_other() -> None:
    assert resolve_config(None, {"training.local_epochs": 2}).training.local_steps is None
    assert (
        resolve_config(None, {"scenario": "typical", "training.local_steps": 4}).training.local_epochs is None
    )
    with pytest.raises(ConfigError, match="either local_steps or local_epochs"):
        resolve_config(None, {"training.local_epochs": 2, "training.local_steps": 2})


def test_what_is_printed_can_be_read_back(tmp_path: Path) -> None:
    config = resolve_config(
        None, {"defenses": ["dp", "prune:0.9"], "attack.rounds": 2, "federation.rounds": 4, "seed": 3}
    )
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config))
    assert resolve_config(file, {}) == config
    assert all("#" in line or line.endswith(":") for line in dump_config(config).splitlines())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed: 0\nrunds: 3\n", ["line 2", "unknown key 'runds'"]),
        (
            "federation:\n  rounds: 3\n  client: 4\n",
            ["line 3", "federation.client", "Did you mean 'clients'"],
        ),
        ("federation:\n  clients: 0\n", ["line 2", "greater than or equal to 1", "got 0", "--clients"]),
        ("training:\n  learning_rate: fast\n", ["line 2", "valid number", "'fast'"]),
        ("seed: [1\n", ["not valid YAML", "line 2"]),
        ("seed: 1\nseed: 2\n", ["line 2", "set twice", "line 1"]),
        ("- a\n", ["line 1", "expected keys"]),
        ("federation: 3\n", ["line 1", "federation"]),
        ("scenario: worst\n", ["line 1", "worst-case", "typical", "'worst'"]),
        ("defenses: [dp, dp]\n", ["line 1", "listed twice"]),
        ("attack:\n  rounds: 49\n", ["attack.rounds", "--attack-rounds", "only 40"]),
    ],
)
def test_mistakes_in_a_file_name_line_and_expectation(tmp_path: Path, text: str, words: list[str]) -> None:
    file = tmp_path / "audit.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        resolve_config(file, {})
    assert str(file) in str(caught.value) or "attack.rounds" in words
    for word in words:
        assert word in str(caught.value)


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such configuration"):
        resolve_config(tmp_path / "none.yaml", {})
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        resolve_config(tmp_path / "b.yaml", {})


@pytest.mark.parametrize(
    ("key", "value", "option"),
    [
        ("federation.clients", 0, "--clients"),
        ("federation.rounds", -1, "--rounds"),
        ("attack.rounds", 0, "--attack-rounds"),
        ("attack.clients", 9, "--attack-clients"),
        ("seed", -1, "--seed"),
    ],
)
def test_impossible_numbers_name_the_option(key: str, value: int, option: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_config(None, {key: value})
    assert option in str(caught.value)
    assert caught.value.exit_code == 2


def test_settings_are_yaml_values() -> None:
    assert parse_settings(["a.b=1", "c=[x, y]", "d=null"]) == {"a.b": 1, "c": ["x", "y"], "d": None}
    with pytest.raises(ConfigError, match="expected key=value"):
        parse_settings(["a"])


def test_attacked_rounds_are_spaced_evenly() -> None:
    def rounds(total: int, wanted: int | None) -> list[int]:
        return resolve_config(None, {"federation.rounds": total, "attack.rounds": wanted}).attacked_rounds()

    assert rounds(2, None) == [1, 2]
    assert rounds(20, None) == [1, 11, 20]
    assert rounds(10, 1) == [1]
    assert rounds(10, 2) == [1, 10]
    assert rounds(9, 3) == [1, 5, 9]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "3 of 40 rounds, evenly spaced; all clients"),
        ({"federation.rounds": 2}, "all rounds; all clients"),
        ({"attack.clients": 2}, "the 2 of 6 clients with the lowest ids"),
        ({"federation.fraction": 0.5}, "all clients that took part in such a round"),
        (
            {"federation.fraction": 0.5, "attack.clients": 2},
            "of the clients that took part in such a round, the 2 with the lowest ids",
        ),
        ({"attack.budget": 90.0}, "at most 90 seconds of attacking for each client and round"),
    ],
)
def test_the_report_says_how_the_attacked_were_chosen(settings: dict[str, object], words: str) -> None:
    config = resolve_config(None, settings)
    assert attacked_rule(config, everyone=config.federation.fraction == 1).endswith(words)


def test_the_baseline_runs_unless_it_is_switched_off() -> None:
    assert resolve_config(None, {"defenses": ["dp"]}).defense_specs() == ["none", "dp"]
    assert resolve_config(None, {"defenses": ["dp"], "baseline": False}).defense_specs() == ["dp"]
    with pytest.raises(ConfigError, match="nothing to audit"):
        resolve_config(None, {"baseline": False})


def test_metrics_can_be_chosen_and_are_checked() -> None:
    from fl_audit.run.check import check_names
    from fl_audit.run.chosen import chosen_metrics

    config = resolve_config(None, {"grade.metrics": ["default", "lpips:vgg"]})
    chosen = chosen_metrics(config.grade.metrics, "semsim")
    assert {"ssim", "semsim", "lpips:vgg"} <= set(chosen)
    assert "fid" not in chosen
    assert list(chosen) == sorted(chosen)
    assert set(chosen_metrics(["mse"], "semsim")) == {"mse", "semsim"}
    with pytest.raises(ConfigError, match=r"unknown metric 'ssmi'.*'ssim'"):
        check_names(resolve_config(None, {"grade.metrics": ["ssmi"]}))
    with pytest.raises(ConfigError, match=r"grade\.metrics: ssim is listed twice.*--metric"):
        resolve_config(None, {"grade.metrics": ["ssim", "ssim"]})


def test_a_loss_that_is_not_known_is_refused_before_any_work() -> None:
    from fl_audit.run.check import check_names

    with pytest.raises(KnowledgeError, match=r"'focal'.*module:function.*threat\.loss"):
        check_names(resolve_config(None, {"threat.loss": "focal"}))
    check_names(resolve_config(None, {"threat.loss": "focal", "attack.names": ["analytic"]}))

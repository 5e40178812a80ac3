from pathlib import Path

import pytest

from fl_audit.core.errors import ConfigError
from fl_audit.run.baseline import IMMATERIAL, baseline_words, check_baseline, differing
from fl_audit.run.config import RunConfig
from fl_audit.run.folder import RunFolder
from fl_audit.run.load import dump_config, resolve_config


def finished(root: Path, config: RunConfig) -> Path:
    folder = RunFolder.create(root)
    folder.config.write_text(dump_config(config))
    for slug in ("none", "control"):
        folder.federation(slug).parent.mkdir(parents=True)
        folder.federation(slug).write_text("{}")
    return root


def test_keys_that_determine_the_baseline_must_be_equal() -> None:
    base = RunConfig()
    assert differing(base, base) == []
    immaterial = {
        "defenses": ["dp"],
        "attack.names": ["analytic"],
        "attack.workers": 3,
        "grade.metrics": ["mse"],
        "federation.timeout": 5.0,
        "attack.rounds": 3,  # what null means
        "attack.clients": 6,
    }
    assert differing(resolve_config(None, immaterial), base) == []
    material = {
        "seed": 1,
        "model": "convnet",
        "federation.rounds": 39,
        "training.batch_size": 2,
        "threat.labels": False,
        "data.partition": "by-class",
        "attack.control_images": 3,
        "attack.budget": 9.0,
    }
    found = differing(resolve_config(None, material), base)
    assert {entry.split(" is ")[0] for entry in found} == {*material, "attack.rounds"}
    assert "seed is 1 here and 0 there" in found


def test_every_immaterial_key_exists() -> None:
    keys = {
        f"{name}.{key}" if key else name
        for name, field in RunConfig.model_fields.items()
        for key in getattr(field.annotation, "model_fields", {"": None})
    }
    assert keys >= IMMATERIAL


def test_all_differing_keys_are_named_and_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    source = finished(tmp_path / "run", RunConfig())
    assert check_baseline(RunConfig(), source).root == source
    other = resolve_config(None, {"seed": 3, "model": "convnet"})
    with pytest.raises(ConfigError, match=r"seed is 3 here and 0 there; model is 'convnet' here and 'lenet'"):
        check_baseline(other, source)
    with pytest.raises(ConfigError, match="has no baseline"):
        check_baseline(resolve_config(None, {"defenses": ["dp"], "baseline": False}), source)
    (source / "captures" / "control" / "federation.json").unlink()
    with pytest.raises(ConfigError, match=r"positive control is not there.*--resume"):
        check_baseline(RunConfig(), source)
    with pytest.raises(ConfigError, match="not a run folder"):
        check_baseline(RunConfig(), tmp_path)


def test_other_versions_are_said() -> None:
    mine = {"run_id": "b", "fl_audit": {"version": "2"}, "packages": {"torch": "2.9"}}
    theirs = {"run_id": "a", "fl_audit": {"version": "2"}, "packages": {"torch": "2.8"}}
    assert baseline_words(mine) is None
    words = baseline_words(mine | {"baseline_from": theirs})
    assert words is not None
    assert "run a" in words
    assert "torch 2.8 there, 2.9 here" in words

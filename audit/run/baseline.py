"""Taking the undefended baseline and the controls from another run instead of computing them again.

Copied are the captures, truth, grants, observations and reconstructions of the baseline and of the positive
control, and the held-out images of the negative control. That is sound only where everything that determines
them is equal, so the two configurations are compared key by key; keys that determine nothing of it are listed
here, and every other key counts, also one that a later version adds.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from fl_audit.core.errors import ConfigError
from fl_audit.core.files import read_json, write_bytes, write_json
from fl_audit.reports.words import spans
from fl_audit.run.config import RunConfig
from fl_audit.run.folder import CONTROL, RunFolder, slugs

BASELINE = "none"

IMMATERIAL = frozenset(
    {
        "attack.device",
        "attack.names",  # compared attack by attack: those of both runs are taken over
        "attack.workers",
        "baseline",
        "defenses",
        "federation.client_cpus",
        "federation.client_gpus",
        "federation.ray_address",
        "federation.timeout",
        "grade.metrics",
        "scenario",  # a source of defaults; the values themselves are compared
    }
)
"""Keys that do not change what the baseline's federation sends, or what an attack makes of it."""

LARGEST = 8 * 2**30
"""Bytes of one file that is copied."""

_SIGNS = ("federation.json", "result.json")
"""Written last: their presence says that what lies beside them is whole."""


def check_baseline(config: RunConfig, source: Path) -> RunFolder:
    """The run at ``source``, if its baseline is the one that ``config`` would compute.

    Raises:
        ConfigError: there is no finished baseline in it, or keys differ; all of them are named.
    """
    if not config.baseline:
        raise ConfigError(f"--baseline-from {source}: this run has no baseline (baseline is false)")
    folder = RunFolder.open(source)
    other = folder.load_config()
    for slug in (BASELINE, CONTROL):
        if not folder.federation(slug).is_file():
            what = "positive control" if slug == CONTROL else "undefended baseline"
            raise ConfigError(
                f"--baseline-from {source}: its {what} is not there or not finished. Finish that run first: "
                f"fl-audit run --resume {source}"
            )
    if not other.baseline and BASELINE not in other.defenses:
        raise ConfigError(f"--baseline-from {source}: that run has no undefended baseline")
    different = differing(config, other)
    if different:
        raise ConfigError(
            f"--baseline-from {source}: its baseline was made under another configuration: "
            f"{'; '.join(different)}. Set these alike, or run without --baseline-from"
        )
    return folder


def differing(config: RunConfig, other: RunConfig) -> list[str]:
    """The keys that matter and differ, e.g. ``seed is 1 here and 0 there``."""
    here, there = _flat(config), _flat(other)
    for values, one in ((here, config), (there, other)):
        values["attack.rounds"] = spans(one.attacked_rounds())
        values["attack.clients"] = one.attack.clients or one.federation.clients
    return [
        f"{key} is {here[key]!r} here and {there[key]!r} there"
        for key in here
        if key not in IMMATERIAL and here[key] != there[key]
    ]


def copy_baseline(source: RunFolder, folder: RunFolder, config: RunConfig) -> None:
    """Copy what `check_baseline` found fit, the signs of completeness last, and note it in the manifest."""
    here, there = (slugs(names) for names in (config.attack.names, source.load_config().attack.names))
    for slug in (BASELINE, CONTROL):
        for part in ("truth", "knowledge", "seen"):
            _copy(source.root / part / slug, folder.root / part / slug)
        for capture in sorted((source.reconstructions / slug).glob("r*-c*")):
            for name in sorted(set(here) & set(there)):
                made = folder.reconstructions / slug / capture.name / here[name]
                _copy(capture / there[name], made)
    _copy_file(source.truth / "pool.safetensors", folder.truth / "pool.safetensors")
    _copy_file(source.scene, folder.scene)
    for slug in (BASELINE, CONTROL):
        _copy(source.captures / slug, folder.captures / slug)
    theirs, ours = read_json(source.manifest), read_json(folder.manifest)
    write_json(
        folder.manifest,
        ours
        | {
            "baseline_from": {
                "run_id": theirs["run_id"],
                "fl_audit": theirs["fl_audit"],
                "packages": theirs["packages"],
            }
        },
    )


def baseline_words(manifest: dict[str, Any]) -> str | None:
    """Where the baseline came from, in words; None where the run computed its own."""
    taken = manifest.get("baseline_from")
    if taken is None:
        return None
    text = f"the undefended baseline and both controls were taken over from run {taken['run_id']}"
    pairs = [("fl-audit", taken["fl_audit"]["version"], manifest["fl_audit"]["version"])]
    pairs += [(name, version, manifest["packages"].get(name)) for name, version in taken["packages"].items()]
    changed = [f"{name} {old} there, {new} here" for name, old, new in pairs if old != new]
    return f"{text}, made with other versions ({'; '.join(changed)})" if changed else text


def _copy(source: Path, target: Path) -> None:
    """Copy the plain files of a folder and of those below it; links are refused, temporary files left."""
    files = [path for path in sorted(source.rglob("*")) if not path.is_dir() or path.is_symlink()]
    files = [path for path in files if not path.name.startswith(".")]
    for path in sorted(files, key=lambda path: path.name in _SIGNS):
        _copy_file(path, target / path.relative_to(source))


def _copy_file(source: Path, target: Path) -> None:
    if source.is_symlink() or not source.is_file():
        raise ConfigError(f"--baseline-from: {source}: expected a plain file")
    if source.stat().st_size > LARGEST:
        raise ConfigError(f"--baseline-from: {source}: over the limit of {LARGEST} bytes")
    write_bytes(target, source.read_bytes())


def _flat(config: RunConfig) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in RunConfig.model_fields:
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            found |= {f"{name}.{key}": inner for key, inner in value.model_dump(mode="json").items()}
        else:
            found[name] = value
    return found

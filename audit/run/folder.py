"""The run folder: where everything lies, what is finished, who may write."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from fl_audit.core.errors import ConfigError
from fl_audit.core.types import CaptureKey
from fl_audit.run.config import RunConfig
from fl_audit.run.load import resolve_config

CONTROL = "control"
"""Folder of the positive control's captures, beside those of the defenses."""


class RunFolder:
    """Paths of one run. Only names from the configuration become paths, never text from clients."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config.yaml"
        self.manifest = root / "manifest.json"
        self.scene = root / "scene.json"
        self.captures = root / "captures"
        self.truth = root / "truth"
        self.knowledge = root / "knowledge"
        self.reconstructions = root / "reconstructions"
        self.findings = root / "findings.jsonl"
        self.summary = root / "summary.json"
        self.report = root / "report.html"
        self.app = root / "app.json"

    @classmethod
    def create(cls, root: Path) -> "RunFolder":
        """Make a new run folder; a folder with anything in it is refused."""
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise ConfigError(
                f"--out {root}: expected a new or empty folder. Continue an interrupted run with "
                f"'fl-audit run --resume {root}', or choose another folder"
            )
        root.mkdir(parents=True, exist_ok=True)
        return cls(root)

    @classmethod
    def open(cls, root: Path) -> "RunFolder":
        """Open an existing run folder."""
        folder = cls(root)
        if not folder.config.is_file():
            raise ConfigError(f"{root}: not a run folder (no config.yaml in it)")
        return folder

    def load_config(self) -> RunConfig:
        """The resolved configuration that this run was started with."""
        return resolve_config(self.config, {})

    def federation(self, slug: str) -> Path:
        """Written last by a defense's federation: what it measured, and the sign that it is complete."""
        return self.captures / slug / "federation.json"

    def knowledge_file(self, key: CaptureKey) -> Path:
        """What the threat model grants about one capture."""
        return self.knowledge / key.defense / f"{key.stem}.json"

    def attack(self, key: CaptureKey, attack_slug: str) -> Path:
        """Folder of one attack on one capture."""
        return self.reconstructions / key.defense / key.stem / attack_slug

    def relative(self, text: str) -> str:
        """``text`` with paths relative to the run folder, so that equal runs have equal findings."""
        return text.replace(f"{self.root}/", "")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for writing, so that two runs do not mix in one folder."""
        try:
            with FileLock(self.root / ".lock", timeout=0):
                yield
        except Timeout:
            raise ConfigError(f"{self.root}: another fl-audit process is writing to this folder") from None


def slugs(specs: list[str]) -> dict[str, str]:
    """A different folder-safe name for each spec, e.g. ``prune:0.9`` to ``prune-0.9``."""
    named: dict[str, str] = {}
    for spec in specs:
        slug = re.sub(r"[^A-Za-z0-9._=-]+", "-", spec).strip("-.")[:60] or "unnamed"
        if slug == CONTROL or slug in named.values():
            slug = f"{slug}-{hashlib.sha256(spec.encode()).hexdigest()[:8]}"
        named[spec] = slug
    return named

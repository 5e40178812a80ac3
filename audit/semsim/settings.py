"""What a training of SemSim was asked for; the defaults are the recipe of the packaged weights."""

import shlex
from dataclasses import dataclass, fields
from pathlib import Path

from fl_audit.core.errors import ConfigError
from fl_audit.semsim.material import NAMES
from fl_audit.semsim.network import Backbone
from fl_audit.semsim.train import Loss

STEPS = 1_000
"""Of the optimiser, at scale 1; for each reader of ``twin``."""


@dataclass(frozen=True)
class Settings:
    """One training.

    Attributes:
        reconstructions: folder with real ones to mix in, see examples/semsim_reconstructions.py.
        backbone: which network.
        loss: which loss.
        scale: of the number of steps.
        minutes: processor time after which it ends early.
        seed: of everything drawn; ``twin`` takes 2 seed and 2 seed + 1 for its readers.
        without: a data set that is left out.

    Raises:
        ConfigError: two of them exclude one another, or there is no data set of that name to leave out.
    """

    reconstructions: Path | None = None
    backbone: Backbone = "twin"
    loss: Loss = "triplet"
    scale: float = 1.0
    minutes: float | None = None
    seed: int = 0
    without: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be, before anything is read."""
        if self.without not in (None, *NAMES):
            raise ConfigError(
                f"--without names {self.without!r}, expected one of {', '.join(map(repr, NAMES))}"
            )
        if self.without is not None and self.reconstructions is not None:
            raise ConfigError(
                "real reconstructions may show pictures of the data set that is left out: "
                "leave out --reconstructions too, or use examples/semsim_ablations.py"
            )

    @property
    def packaged(self) -> bool:
        """Whether they are those of the packaged weights."""
        return self == Settings()

    @property
    def steps(self) -> int:
        """Of the optimiser; at least one."""
        return max(1, round(self.scale * STEPS))

    @property
    def seeds(self) -> list[int]:
        """One for each network that is trained. Those of ``twin`` see other pairs, so that they err apart."""
        return [2 * self.seed, 2 * self.seed + 1] if self.backbone == "twin" else [self.seed]

    @property
    def part(self) -> Backbone:
        """The backbone of each network that is trained; those of ``twin`` are joined afterwards."""
        return "lite" if self.backbone == "twin" else self.backbone

    def command(self) -> str:
        """What repeats it: the seed, and whatever differs from the packaged weights."""
        words = ["python", "-m", "fl_audit.semsim.recipe", "--data", "DIR"]
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default or field.name == "seed":
                # A path says where something lay on one machine alone.
                words += [f"--{field.name}", "FOLDER" if isinstance(value, Path) else str(value)]
        return shlex.join(words)

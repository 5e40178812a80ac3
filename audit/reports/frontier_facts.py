"""How the frontier stands in ``summary.json``: every setting as a point of leakage against accuracy."""

from typing import Literal

from pydantic import Field

from fl_audit.reports._base import Model

Level = Literal["guesses", "above", "unknown"]


class FrontierPoint(Model):
    """One defense with one set of parameters."""

    run: str = Field("", description="letter of the run, in a comparison; empty within a run")
    defense: str
    family: str = Field(description="its name without parameters, e.g. clip+prune for a stack")
    setting: str = Field(description="what distinguishes it within its family, e.g. 0.9; else the family")
    baseline: bool
    as_is: bool = Field(False, description="whether it is an app as it is, with what it brings itself")
    leak_rate: float | None = Field(ge=0, le=1)
    leak_rate_ci: tuple[float, float] | None = None
    accuracy: float | None = Field(ge=0, le=1)
    epsilon: float | None = Field(None, ge=0)
    delta: float | None = Field(None, ge=0, le=1)
    against_server: bool = Field(True, description="whether epsilon holds against the server too")
    front: bool = Field(description="no other setting leaks less at this accuracy or is worth more at it")
    level: Level = Field(description="whether its leakage is at the level that guesses reach")
    why: str = Field(description="the reason for the level, in words")


class Sweep(Model):
    """Settings that differ in one number alone, in its order; charts join them."""

    parameter: str
    points: list[int] = Field(description="positions among the points")


class Frontier(Model):
    """Leakage against accuracy over all settings."""

    points: list[FrontierPoint]
    sweeps: list[Sweep] = []
    guess_rate: float | None = Field(None, ge=0, le=1, description="share that the better kind of guess gets")
    weakest: int | None = Field(
        None, description="position of the setting that costs least accuracy at the level of guesses"
    )
    conclusion: str = Field(description="the same in words, or why there is none")
    doubts: list[str] = Field([], description="what to know before acting on it")

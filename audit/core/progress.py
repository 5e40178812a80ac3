"""What the stages need of a display; the terminal implements it, everything else uses `Progress`."""


class Progress:
    """A display that shows nothing. Subclass it to show something; all methods may be called often."""

    def stage(self, name: str, total: int) -> None:
        """A stage begins that will finish ``total`` units of work, e.g. captures to attack."""

    def begin(self, label: str) -> None:
        """Work begins on the unit called ``label``, e.g. ``"dp r002-c03 inverting-gradients"``."""

    def step(self, done: int, total: int, value: float | None = None) -> None:
        """The current unit is at ``done`` of ``total`` iterations, with objective ``value`` if known."""

    def advance(self) -> None:
        """One unit of the stage is finished."""

    def note(self, message: str) -> None:
        """A line that the user should keep, e.g. a client that failed."""

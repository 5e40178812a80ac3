"""The witness of an app's client: what it trains on, told to the watch over the app."""

from contextlib import ExitStack
from typing import Any

import torch
from flwr.app import Array, RecordDict
from torch import Tensor, nn

from fl_audit.core.types import GroundTruth
from fl_audit.federation._calls import is_real
from fl_audit.federation.apps.watch import Watch, is_abandoned
from fl_audit.federation.witness import Witness
from fl_audit.strategies._content import named_arrays, read_arrays


class AppWitness(Witness):
    """A witness that knows what the watch knows, and tells it what it sees.

    Args:
        watch: what is known of the app.
    """

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch
        self._profile = ExitStack()
        self._sent: dict[str, Array] = {}

    def asked(self, content: RecordDict) -> None:
        """Keep the model sent, to tell whether training began from it."""
        self._sent, _ = named_arrays(content)

    def __enter__(self) -> "AppWitness":
        self._watch.training.set()
        if self._watch.recipe is None and self._watch.recipe_missing is None:
            self._profile.enter_context(self._watch.origins.watching())
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._profile.close()
        self._watch.training.clear()

    def truth(self) -> GroundTruth | str:
        """As `Witness.truth`; the watch learns from it."""
        truth = super().truth()
        if self.steps:
            self._watch.learn(self.steps[0].calls)
            if isinstance(truth, str):  # it may still show what its images are like
                self._watch.pixels(self.steps[0].calls[0].images)
        else:  # an update without an optimiser still shows model and images
            for call in self.differentiated()[:1]:
                self._watch.learn([call])
                self._watch.pixels(call.images)
        return truth

    def pixels(self, inputs: Tensor) -> Tensor | str:
        """As the watch reads them."""
        return self._watch.pixels(inputs)

    def _before(self, module: nn.Module, inputs: Any) -> None:
        if is_real() and not is_abandoned():
            super()._before(module, inputs)

    def _after(self, module: nn.Module, inputs: Any, *rest: Any) -> None:
        if not is_real() or is_abandoned():
            return
        known = len(self._open)
        super()._after(module, inputs, *rest)
        for call in self._open if self._watch.recipe is None else ():
            if call.parts:  # now, while the client still has it
                call.whole = self._watch.origins.holder([call.root, *call.parts])
        if len(self._open) > known:
            self._watch.origins.stop()
            if self._sent and not self.steps:
                self._watch.began_with(module, read_arrays(self._sent)[0])
            self._sent = {}

    def _on_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if not is_abandoned():
            self._watch.look_at_training()
            super()._on_step(optimizer, args, kwargs)

"""More local steps before anything is sent: the update mixes more images, at no cost but time."""

from dataclasses import replace

from pydantic import Field

from fl_audit.core.training import Training
from fl_audit.core.units import Defense
from fl_audit.strategies.defenses._registry import defenses


@defenses.register("local-steps")
class LocalSteps(Defense):
    """Train for more steps before sending, so that one update mixes more images and more weights.

    The plain consequence of federated averaging (McMahan et al., "Communication-Efficient Learning of Deep
    Networks from Decentralized Data", AISTATS 2017, https://arxiv.org/abs/1602.05629): what leaves is the sum
    of many gradients, each taken at weights that the server never sees. Geiping et al., "Inverting
    Gradients", NeurIPS 2020 (https://arxiv.org/abs/2003.14053), section 6, and Dimitrov et al., "Data Leakage
    in Federated Averaging", TMLR 2022 (https://arxiv.org/abs/2206.12395), show that it makes inversion harder
    and not impossible: an attacker who knows the settings simulates the steps. No guarantee.

    It takes the place of ``training.local_steps`` and ``training.local_epochs``; nothing else changes.
    """

    acts_on = "training"
    paper = "McMahan et al., Communication-Efficient Learning of Deep Networks, AISTATS 2017"

    steps: int = Field(
        default=8, ge=1, le=100_000, description="optimiser steps that a client takes in a round"
    )
    batch_size: int | None = Field(
        default=None, ge=1, description="images in one step; none: what the training settings say"
    )

    def training(self, training: Training) -> Training:
        """The same, for so many steps."""
        size = training.batch_size if self.batch_size is None else self.batch_size
        return replace(training, local_steps=self.steps, local_epochs=None, batch_size=size)

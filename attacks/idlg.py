"""Improved Deep Leakage from Gradients (Zhao et al. 2020): the label first, then deep leakage."""

from typing import ClassVar

from pydantic import Field

from fl_audit.attacks._registry import attacks
from fl_audit.attacks.dlg import DeepLeakage


@attacks.register("idlg")
class ImprovedDeepLeakage(DeepLeakage):
    """Deep leakage after the label is read off the gradient, from one start; for one image.

    Zhao, Mopuri and Bilen, "iDLG: Improved Deep Leakage from Gradients", 2020,
    https://arxiv.org/abs/2001.02610, equations 3 to 5 for the label and algorithm 1. Differs in what `dlg`
    differs in, which infers labels as well, and in: labels of several images are counted, where the paper's
    rule finds each label once.
    """

    paper: ClassVar[str] = (
        "Zhao et al., iDLG: Improved Deep Leakage from Gradients, 2020, https://arxiv.org/abs/2001.02610"
    )

    iterations: int = Field(
        300, ge=1, le=1_000_000, description="L-BFGS steps of up to 20 evaluations in each restart"
    )
    restarts: int = Field(1, ge=1, le=1024, description="random starts at most")

"""The starts that a preset can be given by name."""

from typing import Literal

from fl_audit.attacks.feature_start import FeatureInversion
from fl_audit.attacks.starts import MeanImage, NormalNoise, Pattern, Start

StartName = Literal["features", "grey", "noise", "pattern"]

STARTS: dict[StartName, Start] = {
    "features": FeatureInversion(),
    "grey": MeanImage(),
    "noise": NormalNoise(),
    "pattern": Pattern(),
}

DESCRIPTION = (
    "where a restart begins; grey: the mean of surrogates, else grey; features: images that give the input "
    "of a linear layer, as its gradient shows it; noise; pattern: a small random tile, repeated"
)

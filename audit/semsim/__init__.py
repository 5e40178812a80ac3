"""SemSim: a distance of images that follows what people recognise, its training, and its packaged weights.

Images are float ``(N, C, H, W)`` in [0, 1], of any size, grey or in colour. Lower distance means more
leakage.
"""

from fl_audit.semsim.calibration import Calibration, expected_calibration_error, fit
from fl_audit.semsim.network import BACKBONES, Backbone, build, distance, features, prepare
from fl_audit.semsim.triplet import classification_loss, contrastive_loss, ranking_loss, triplet_loss
from fl_audit.semsim.weights import CARD, NAME, Weights, card_path, load, packaged, packaged_path, save

__all__ = [
    "BACKBONES",
    "Backbone",
    "CARD",
    "Calibration",
    "NAME",
    "Weights",
    "build",
    "card_path",
    "classification_loss",
    "contrastive_loss",
    "distance",
    "expected_calibration_error",
    "features",
    "fit",
    "load",
    "packaged",
    "packaged_path",
    "prepare",
    "ranking_loss",
    "save",
    "triplet_loss",
]

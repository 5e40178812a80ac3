"""Metrics of how close a reconstruction comes, and what follows from them.

Images are float32 ``(N, C, H, W)`` in [0, 1]. Unmeasured is NaN with a reason, never 0.
"""

from fl_audit.core.discover import import_modules
from fl_audit.metrics._base import ContextMetric, Metric
from fl_audit.metrics._context import Context, Scores
from fl_audit.metrics._registry import metrics
from fl_audit.metrics._weights import download_weights, installed_weights
from fl_audit.metrics.controls import negative_guesses
from fl_audit.metrics.frechet import frechet_distance
from fl_audit.metrics.leakrate import LeakRate, leak_rate, wilson
from fl_audit.metrics.matching import arrange, match
from fl_audit.metrics.multiscale import ms_ssim
from fl_audit.metrics.perceptual import lpips_distance
from fl_audit.metrics.pixels import PSNR_CAP, mse, psnr
from fl_audit.metrics.recognisability import THRESHOLD, RecognisabilityRule
from fl_audit.metrics.structure import ssim

import_modules(__name__, __path__)

__all__ = [
    "Context",
    "ContextMetric",
    "LeakRate",
    "Metric",
    "PSNR_CAP",
    "RecognisabilityRule",
    "Scores",
    "THRESHOLD",
    "arrange",
    "download_weights",
    "frechet_distance",
    "installed_weights",
    "leak_rate",
    "lpips_distance",
    "match",
    "metrics",
    "ms_ssim",
    "mse",
    "negative_guesses",
    "psnr",
    "ssim",
    "wilson",
]

"""SemSim's slot: the metric is declared, its weights are not packaged yet."""

from torch import Tensor

from fl_audit.core.errors import MissingWeightsError
from fl_audit.metrics._base import Metric
from fl_audit.metrics._registry import metrics

_REASON = "no SemSim weights are packaged yet"


@metrics.register("semsim")
class SemSim(Metric):
    """Semantic distance trained on what people recognise (Sun et al. 2023); no weights are packaged yet.

    Sun, Gazagnadou, Sharma, Lyu, Li and Zheng, "Privacy Assessment on Reconstructed Images: Are Existing
    Evaluation Metrics Faithful to Human Perception?", NeurIPS 2023, https://arxiv.org/abs/2309.13038.
    """

    better = "lower"
    range = (0.0, float("inf"))
    needs = "SemSim weights"

    def unavailable(self) -> str | None:
        """Always, until weights are packaged."""
        return _REASON

    def _score(self, originals: Tensor, reconstructions: Tensor) -> Tensor:
        raise MissingWeightsError(_REASON)

"""SemSim: the distance of features that were trained on what is recognisable."""

import torch
from torch import Tensor, nn

from fl_audit.core.errors import MissingWeightsError
from fl_audit.metrics._base import Metric
from fl_audit.metrics._registry import metrics
from fl_audit.semsim import distance, packaged


def packaged_problem() -> str | None:
    """Why the packaged weights cannot be used; None if they can."""
    try:
        packaged()
    except MissingWeightsError as error:
        return str(error)
    return None


@metrics.register("semsim")
class SemSim(Metric):
    """Semantic distance trained on what is recognisable (Sun et al. 2023), weights packaged; lower is closer.

    Sun, Gazagnadou, Sharma, Lyu, Li and Zheng, "Privacy Assessment on Reconstructed Images: Are Existing
    Evaluation Metrics Faithful to Human Perception?", NeurIPS 2023, https://arxiv.org/abs/2309.13038. Differs
    in: the labels of the packaged weights come from a vision-language model and not from people; its model
    card says how.
    """

    better = "lower"
    range = (0.0, float("inf"))
    needs = "SemSim weights (packaged)"
    label = "SemSim"

    def unavailable(self) -> str | None:
        """Says so where the packaged weights are missing or damaged."""
        return packaged_problem()

    def _score(self, originals: Tensor, reconstructions: Tensor) -> Tensor:
        network = _on(packaged().network, originals.device)
        return distance(network, originals, reconstructions)


def _on(network: nn.Module, device: torch.device) -> nn.Module:
    """The network on the images' device; it stays there for the next call."""
    return network.to(device)

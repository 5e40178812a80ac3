"""What metrics are given besides the two images, and what they give back."""

from dataclasses import dataclass, fields, replace

from torch import Tensor, nn

from fl_audit.core.images import check_images

WORDS = {
    "model": "the attacked model",
    "labels": "the true labels",
    "client": "the client's other originals",
    "others": "images of the same kind that the client does not hold",
    "prior": "what the attacker would guess without the update",
}


@dataclass(frozen=True)
class Scores:
    """What a metric says.

    Attributes:
        values: float64 on the CPU, ``(N,)``, or ``(1,)`` for a metric of whole sets; NaN where unmeasured.
        reasons: for each value why it is unmeasured, or None where it is measured.
    """

    values: Tensor
    reasons: tuple[str | None, ...]


@dataclass(frozen=True)
class Context:
    """What is known besides originals and reconstructions; None: not known. The grader fills it in.

    Attributes:
        model: the attacked model with the weights that were sent, in eval mode: ``(N, C, H, W)`` float32 in
            [0, 1] to logits ``(N, classes)``.
        labels: true labels of the originals, int64 ``(N,)``.
        client: every original of the client as far as known, those at hand included, float32
            ``(M, C, H, W)`` in [0, 1].
        others: images of the same kind that the client does not hold, ``(K, C, H, W)``.
        prior: the attacker's guess for each original had there been no update, ``(N, C, H, W)``.
    """

    model: nn.Module | None = None
    labels: Tensor | None = None
    client: Tensor | None = None
    others: Tensor | None = None
    prior: Tensor | None = None

    def given(self) -> frozenset[str]:
        """Names of the fields that are known."""
        return frozenset(field.name for field in fields(self) if getattr(self, field.name) is not None)

    def lacks(self, wanted: frozenset[str]) -> str | None:
        """What of ``wanted`` is not known, in words, or None."""
        missing = [words for name, words in WORDS.items() if name in wanted - self.given()]
        return f"not known here: {', '.join(missing)}" if missing else None

    def rows(self, kept: Tensor) -> "Context":
        """The same for some of the originals; ``kept`` is bool ``(N,)``."""
        return replace(
            self,
            labels=None if self.labels is None else self.labels[kept],
            prior=None if self.prior is None else self.prior[kept],
        )

    def check(self, originals: Tensor) -> None:
        """Raise ValueError where a field does not fit the originals."""
        for name in ("client", "others", "prior"):
            images: Tensor | None = getattr(self, name)
            if images is None:
                continue
            check_images(images, name)
            if images.shape[1:] != originals.shape[1:] or (name == "prior" and len(images) != len(originals)):
                raise ValueError(
                    f"{name}: expected images like the originals {tuple(originals.shape)}, got "
                    f"{tuple(images.shape)}"
                )
        if self.labels is not None and self.labels.shape != originals.shape[:1]:
            raise ValueError(
                f"labels: expected one for each of {len(originals)} originals, got {tuple(self.labels.shape)}"
            )

"""What the head is trained for and judged by: cross-entropy, concordance, recall, calibration."""

import torch
import torch.nn.functional as F
from torch import Tensor


def emotion_loss(logits: Tensor, emotion: Tensor, weight: Tensor, classes: Tensor, smoothing: float) -> Tensor:
    """Mean cross-entropy with label smoothing over the frames that count.

    Args:
        logits: `[B, T, C]`.
        emotion: class per frame, int64 `[B, T]`, negative where unknown.
        weight: of each frame `[B, T]`, 0 or more.
        classes: of each class `[C]`, to balance rare ones.
        smoothing: probability that is spread over all classes, 0 to 1.
    """
    known = (emotion >= 0) & (weight > 0)
    weights = weight[known]
    losses = F.cross_entropy(logits[known], emotion[known], weight=classes, label_smoothing=smoothing, reduction="none")
    return (losses * weights).sum() / weights.sum().clamp(min=1.0)


def concordance(estimate: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Lin's concordance correlation coefficient (1989), -1 to 1, over frames with a target that is not NaN.

    All three are `[...]` of one shape; frames are weighted by `weight`.
    """
    weight = weight * ~target.isnan()
    target = target.nan_to_num()
    total = weight.sum().clamp(min=1e-6)

    def mean(values: Tensor) -> Tensor:
        return (weight * values).sum() / total

    a, b = mean(estimate), mean(target)
    covariance = mean((estimate - a) * (target - b))
    spread = mean((estimate - a).square()) + mean((target - b).square()) + (a - b).square()
    return 2 * covariance / (spread + 1e-6)


def recalls(logits: Tensor, emotion: Tensor) -> Tensor:
    """Recall of each class `[C]` over frames: logits `[N, C]`, emotion int64 `[N]`; NaN for a class that is absent."""
    classes = logits.shape[-1]
    hits = torch.bincount(emotion[logits.argmax(-1) == emotion], minlength=classes)
    return hits / torch.bincount(emotion, minlength=classes)


def fit_temperature(logits: Tensor, emotion: Tensor, weight: Tensor) -> float:
    """The number that logits `[N, C]` must be divided by for the least negative log-likelihood of emotion `[N]`.

    Temperature scaling, Guo et al., "On Calibration of Modern Neural Networks", 2017; searched from 0.2 to 5.
    """
    candidates: list[float] = torch.logspace(-0.7, 0.7, 141).tolist()

    def loss(temperature: float) -> float:
        losses = F.cross_entropy(logits / temperature, emotion, reduction="none")
        return float((losses * weight).sum())

    best: float = min(candidates, key=loss)
    return round(best, 3)

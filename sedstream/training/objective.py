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


def calibrate(logits: Tensor, emotion: Tensor, weight: Tensor) -> tuple[float, Tensor]:
    """Temperature T and offsets b `[C]` with the greatest likelihood of softmax(logits / T + b) on held-out frames.

    Balanced training makes rare classes look frequent; the offsets put that right, the temperature the confidence.
    Bias-corrected temperature scaling: Alexandari et al., "Maximum Likelihood with Bias-Corrected Calibration is
    Hard-To-Beat at Label Shift Adaptation", 2020.

    Args:
        logits: `[N, C]`.
        emotion: class of each frame, int64 `[N]`.
        weight: of each frame `[N]`.

    Returns:
        T, and b with mean 0. A class that does not occur keeps b = 0.
    """
    present = torch.bincount(emotion, minlength=logits.shape[-1]) > 0
    scale = torch.zeros((), requires_grad=True)
    offset = torch.zeros(logits.shape[-1], requires_grad=True)
    optimiser = torch.optim.LBFGS([scale, offset], max_iter=50, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        scores = logits * (-scale).exp() + offset * present
        value = (F.cross_entropy(scores, emotion, reduction="none") * weight).sum() / weight.sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    found = offset.detach() * present
    return round(float(scale.detach().exp()), 3), (found - found.sum() / present.sum()) * present


def baseline(scores: Tensor, neutral: int) -> list[float]:
    """The mean of log-probabilities `[N, C]` over frames, each as much as it sounds neutral, which is a column of them:
    m in `sedstream.decoding.voice`."""
    sounds = scores[:, neutral].double().exp()
    found = sounds @ scores.double() / sounds.sum()
    return [round(value, 3) for value in found.tolist()]

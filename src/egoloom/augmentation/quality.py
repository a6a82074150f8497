"""How far a generated clip can be trusted, without knowing the truth.

Each score lies in [0, 1], 1 is best; the quality of a clip is their product.
Legend: T frames, C colours, H rows, W columns.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class QualityScores:
    """The parts of a clip's quality.

    Attributes:
        coverage: Share of the ego view that the prior shows: what was seen need not be invented.
        agreement: Agreement of generated and prior pixels where the prior shows something.
        stability: How little the picture flickers beyond what the prior itself changes.
    """

    coverage: float
    agreement: float
    stability: float

    @property
    def quality(self) -> float:
        """The product of the parts."""
        return self.coverage * self.agreement * self.stability


def score_clip(generated_TCHW: np.ndarray, prior_TCHW: np.ndarray, hole_THW: np.ndarray) -> QualityScores:
    """Scores a generated clip against the prior that it was made from.

    Agreement is ``max(0, 1 - mean |generated - prior| / 64)`` over visible pixels: 0 at a mean error of a quarter of
    the range. Stability is the same for the mean absolute difference between the frame-to-frame changes of both, over
    pixels that are visible in both frames.

    Args:
        generated_TCHW: uint8.
        prior_TCHW: uint8.
        hole_THW: Where the prior shows nothing.
    """
    visible = ~np.asarray(hole_THW, bool)
    generated, prior = (np.asarray(frames).astype(np.float32) for frames in (generated_TCHW, prior_TCHW))
    error = np.abs(generated - prior).mean(axis=1)
    both = visible[1:] & visible[:-1]
    jitter = np.abs(np.diff(generated, axis=0) - np.diff(prior, axis=0)).mean(axis=1)
    return QualityScores(
        coverage=float(visible.mean()),
        agreement=_falling(error[visible]),
        stability=_falling(jitter[both]),
    )


def _falling(errors: np.ndarray) -> float:
    return max(0.0, 1.0 - float(errors.mean()) / 64.0) if errors.size else 0.0

"""How far a generated clip can be trusted, without knowing the truth.

Each score lies in [0, 1], 1 is best; the quality of a clip is the product of the first three. ``hands`` is a weak cue
(colour alone cannot tell skin from wood) and only used to reject clips.
Legend: T frames, C colours, H rows, W columns.
"""

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class QualityScores:
    """The parts of a clip's quality.

    Attributes:
        coverage: Share of the ego view that the prior shows: what was seen need not be invented.
        agreement: Agreement of generated and prior pixels where the prior shows something.
        stability: How little the picture flickers beyond what the prior itself changes.
        hands: Overlap of skin-coloured pixels with those of the prior, see `hand_plausibility`.
    """

    coverage: float
    agreement: float
    stability: float
    hands: float = 1.0

    @property
    def quality(self) -> float:
        """The product of coverage, agreement and stability."""
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
        hands=hand_plausibility(generated_TCHW, prior_TCHW, visible),
    )


def hand_plausibility(generated_TCHW: np.ndarray, prior_TCHW: np.ndarray, visible_THW: np.ndarray) -> float:
    """Returns the Dice overlap of skin-coloured pixels in the generated frames and in the prior, where it is visible.

    A hand that the exo camera saw must be there in the ego view too, and no hand may appear where the prior shows
    something else. 1 if neither shows any skin.
    """
    generated, prior = (skin_mask(frames) & visible_THW for frames in (generated_TCHW, prior_TCHW))
    total = int(generated.sum() + prior.sum())
    return 2 * int((generated & prior).sum()) / total if total else 1.0


def skin_mask(frames_TCHW: np.ndarray) -> np.ndarray:
    """Returns where chroma is that of skin: Cr in [133, 173], Cb in [77, 127] (Chai and Ngan 1999)."""
    pictures = np.ascontiguousarray(np.asarray(frames_TCHW).transpose(0, 2, 3, 1))
    chroma = np.stack([cv2.cvtColor(picture, cv2.COLOR_RGB2YCrCb) for picture in pictures])
    cr, cb = chroma[..., 1], chroma[..., 2]
    return (cr >= 133) & (cr <= 173) & (cb >= 77) & (cb <= 127)


def _falling(errors: np.ndarray) -> float:
    return max(0.0, 1.0 - float(errors.mean()) / 64.0) if errors.size else 0.0

"""Which hand holds something during a segment, from the contact states of EPIC's hand and object detections.

The detector (Shan et al. 2020, arXiv 2006.06669) says whether a hand touches an object, not which object it is. A hand
in contact is taken to hold the segment's first noun; of two hands in contact with different things one is labelled
wrong, which is the price of labels that nobody drew.
"""

from collections.abc import Sequence

import numpy as np

from egoloom.clips.schema import HAND_OBJECT_HEADS, UNLABELLED
from egoloom.ingest.protobuf import FrameDetections

OBJECT_STATES = (3, 4)  # a portable object, a stationary one; the others are nothing, oneself, another person
MIN_SHARE = 0.5  # of the frames in which the hand is seen


class Contacts:
    """The contact states of both hands over a video.

    Args:
        frames: What the detector saw.
        first_number: Frame number that lies at second 0.
        number_rate: Frame numbers a second.
        min_score: Weaker detections do not count.
    """

    def __init__(
        self, frames: Sequence[FrameDetections], *, first_number: int, number_rate: float, min_score: float
    ) -> None:
        rows = [
            ((frame.frame_number - first_number) / number_rate, hand.side, hand.state in OBJECT_STATES)
            for frame in frames
            for hand in frame.detections
            if hand.is_hand and hand.score >= min_score
        ]
        self.times_s = np.array([row[0] for row in rows])
        self.sides = np.array([row[1] for row in rows])
        self.touches = np.array([row[2] for row in rows], bool)

    def labels(self, start_s: float, end_s: float, noun: int) -> dict[str, int]:
        """Returns the class of each hand-object head for a segment: 0 holds nothing, ``1 + noun`` holds that noun.

        A hand that is never seen, and a segment without a noun, stay -1.
        """
        labels = {}
        for side, head in enumerate(HAND_OBJECT_HEADS):  # the detector's sides: 0 left, 1 right
            seen = self.touches[(self.sides == side) & (self.times_s >= start_s) & (self.times_s <= end_s)]
            known = len(seen) and noun != UNLABELLED
            labels[head] = (1 + noun if seen.mean() >= MIN_SHARE else 0) if known else UNLABELLED
        return labels

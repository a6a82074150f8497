"""The hand-object heads: which hand is in contact, and with what.

Each hand is one classification: class 0 says "no contact", class ``1 + noun`` says "in contact with that noun" (of the
action's nouns, or of a list of held things of its own, as the kitchen's). Two plain heads answer both questions at
once, and every loss and metric of EgoLoom applies to them unchanged.

Shape letters: B batch, K classes.
"""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

HAND_OBJECT_HEADS = ("left_hand_object", "right_hand_object")
NO_CONTACT = 0


class HandContact(NamedTuple):
    """What a hand does in each clip: contact probability, most likely noun, its probability given contact; all [B]."""

    contact_probability_B: Tensor
    noun_B: Tensor
    noun_probability_B: Tensor


def hand_object_heads(num_nouns: int) -> dict[str, int]:
    """Returns the two heads to add to ``num_classes``.

    Example:
        >>> hand_object_heads(7)
        {'left_hand_object': 8, 'right_hand_object': 8}
    """
    return dict.fromkeys(HAND_OBJECT_HEADS, num_nouns + 1)


def hand_object_label(noun: int | None) -> int:
    """Returns the class of one hand's head: 0 without contact, else ``1 + noun``."""
    return NO_CONTACT if noun is None else 1 + noun


def decode_hand_object(logits: Mapping[str, Tensor]) -> dict[str, HandContact]:
    """Returns ``"left"`` and ``"right"`` to what that hand does, from the two heads' logits ``[B, 1 + nouns]``."""
    decoded = {}
    for head in HAND_OBJECT_HEADS:
        probs_BK = logits[head].softmax(dim=-1)
        contact_B = 1.0 - probs_BK[:, NO_CONTACT]
        best_B, noun_B = probs_BK[:, 1:].max(dim=-1)
        decoded[head.split("_")[0]] = HandContact(contact_B, noun_B, best_B / contact_B.clamp_min(1e-12))
    return decoded

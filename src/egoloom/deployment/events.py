"""Turns predictions over time into events: a start, an end, a verb and a noun, without flicker.

Shape letters: K classes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from egoloom.deployment.card import Card

HAND_HEADS = {"left": "left_hand_object", "right": "right_hand_object"}
NO_CONTACT = 0  # class 0 of a hand's head; class 1 + n is contact with noun n


class EventConfig(BaseModel):
    """Hysteresis of the events.

    Attributes:
        on_probability: An event starts when a class reaches this.
        off_probability: It ends when its class falls below this, or another class starts.
        min_duration_s: Shorter events are dropped.
        contact_probability: From here on a hand counts as in contact.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    on_probability: float = Field(default=0.5, gt=0, le=1)
    off_probability: float = Field(default=0.35, ge=0, le=1)
    min_duration_s: float = Field(default=0.3, ge=0)
    contact_probability: float = Field(default=0.5, gt=0, lt=1)

    @model_validator(mode="after")
    def _off_below_on(self) -> "EventConfig":
        if self.off_probability > self.on_probability:
            raise ValueError(f"off_probability {self.off_probability} lies above on_probability {self.on_probability}")
        return self


@dataclass(frozen=True)
class Event:
    """Something the wearer did. ``probability`` is the mean over the event; ``hands`` is empty without such heads."""

    start_s: float
    end_s: float
    verb: str | None
    noun: str | None
    action: str | None
    probability: float
    hands: dict[str, dict[str, Any]]

    def to_json(self) -> str:
        """Returns the event as one JSON line."""
        content = {key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(self).items()}
        if not content["hands"]:
            del content["hands"]
        return json.dumps(content)


class EventDetector:
    """Follows one stream; feed it every prediction in the order of time."""

    def __init__(self, card: Card, config: EventConfig | None = None) -> None:
        self.card = card
        self.config = config or EventConfig()
        self._open: int | None = None
        self._start_s = self._last_s = 0.0
        self._probabilities: list[float] = []
        self._sums: dict[str, np.ndarray] = {}

    @property
    def current(self) -> str | None:
        """Name of the class of the open event."""
        return None if self._open is None else self.card.class_names[self.card.main_head][self._open]

    def update(self, time_s: float, log_probs: Mapping[str, np.ndarray]) -> list[Event]:
        """Takes the prediction at a time and returns the events that it ends."""
        probs_K = np.exp(log_probs[self.card.main_head])
        best = int(probs_K.argmax())
        ended: list[Event] = []
        if self._open is not None:
            other = best != self._open and probs_K[best] >= self.config.on_probability
            if other or probs_K[self._open] < self.config.off_probability:
                ended = self._close(time_s)
        if self._open is None and probs_K[best] >= self.config.on_probability:
            self._open, self._start_s, self._probabilities, self._sums = best, time_s, [], {}
        if self._open is not None:
            self._probabilities.append(float(probs_K[self._open]))
            for head, scores in log_probs.items():
                self._sums[head] = self._sums.get(head, 0.0) + np.exp(scores)
        self._last_s = time_s
        return ended

    def finish(self, end_s: float | None = None) -> list[Event]:
        """Ends the stream and returns the event that was still open."""
        return self._close(max(self._last_s, end_s or 0.0)) if self._open is not None else []

    def _close(self, end_s: float) -> list[Event]:
        main, self_open, self._open = self.card.main_head, self._open, None
        if end_s - self._start_s < self.config.min_duration_s or self_open is None:
            return []
        names = {head: self._best_name(head) for head in ("verb", "noun") if head in self._sums}
        if main in names:
            names[main] = self.card.class_names[main][self_open]
        action = self.card.class_names[main][self_open] if main == "action" else None
        if action is not None:
            names |= self._parts_of(action)  # separate heads may disagree; an event must not contradict itself
        probability = float(np.mean(self._probabilities))
        return [Event(self._start_s, end_s, names.get("verb"), names.get("noun"), action, probability, self._hands())]

    def _parts_of(self, action: str) -> dict[str, str]:
        """Verb and noun of an action that is named after both; empty for other names."""
        nouns = set(self.card.class_names.get("noun", ()))
        for verb in self.card.class_names.get("verb", ()):
            noun = action.removeprefix(f"{verb} ")
            if noun != action and noun in nouns:
                return {"verb": verb, "noun": noun}
        return {}

    def _best_name(self, head: str) -> str:
        return self.card.class_names[head][int(self._sums[head].argmax())]

    def _hands(self) -> dict[str, dict[str, Any]]:
        hands = {}
        for side, head in HAND_HEADS.items():
            if head not in self._sums:
                continue
            probs_K = self._sums[head] / len(self._probabilities)
            hands[side] = hand_state(probs_K, self.card.class_names[head], self.config.contact_probability)
        return hands


def hand_state(probs_K: np.ndarray, class_names: Sequence[str], contact_probability: float) -> dict[str, Any]:
    """Returns ``in_contact``, ``contact_probability`` and ``object`` (None without contact) from a hand's head."""
    contact = 1.0 - float(probs_K[NO_CONTACT])
    touched = int(probs_K[1:].argmax()) + 1
    in_contact = contact >= contact_probability
    return {
        "in_contact": in_contact,
        "contact_probability": round(contact, 4),
        "object": class_names[touched] if in_contact else None,
    }

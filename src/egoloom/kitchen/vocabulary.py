"""Actions of the kitchen, their verbs and nouns, and the categories that the simulated detector knows."""

from dataclasses import dataclass

from egoloom.clips.schema import EMPTY_HAND, HAND_OBJECT_HEADS


@dataclass(frozen=True)
class Action:
    """One action class: ``name`` is "verb noun", ``motion`` the choreography that performs it.

    ``reverse`` plays the choreography backwards in time, so that no single frame tells it from its partner.
    """

    verb: str
    noun: str
    motion: str
    reverse: bool = False

    @property
    def name(self) -> str:
        """The class name, for instance "open drawer"."""
        return f"{self.verb} {self.noun}"


ACTIONS: tuple[Action, ...] = (
    Action("open", "drawer", "drawer"),
    Action("close", "drawer", "drawer", reverse=True),
    Action("open", "cupboard", "cupboard"),
    Action("close", "cupboard", "cupboard", reverse=True),
    Action("turn on", "tap", "tap"),
    Action("turn off", "tap", "tap", reverse=True),
    Action("take", "mug", "move_mug"),
    Action("put", "mug", "move_mug", reverse=True),
    Action("take", "plate", "move_plate"),
    Action("put", "plate", "move_plate", reverse=True),
    Action("take", "bottle", "move_bottle"),
    Action("put", "bottle", "move_bottle", reverse=True),
    Action("pour", "water", "pour"),
    Action("cut", "carrot", "cut_carrot"),
    Action("cut", "bread", "cut_bread"),
    Action("stir", "pot", "stir"),
    Action("wash", "plate", "wash"),
    Action("wipe", "counter", "wipe"),
)


def _unique(names: list[str]) -> list[str]:
    return list(dict.fromkeys(names))


VERBS: list[str] = _unique([action.verb for action in ACTIONS])
NOUNS: list[str] = _unique([action.noun for action in ACTIONS])
ACTION_NAMES: list[str] = [action.name for action in ACTIONS]
# What a hand can hold; class 0 says that it holds nothing. Tools are no nouns of actions, so this is a list of its own.
HELD_OBJECTS: list[str] = [
    EMPTY_HAND, "drawer", "cupboard", "tap", "mug", "plate", "bottle", "carrot", "bread", "pot", "knife", "spoon",
    "sponge", "cloth",
]  # fmt: skip
LABEL_SPACES: dict[str, list[str]] = {
    "verb": VERBS, "noun": NOUNS, "action": ACTION_NAMES, **dict.fromkeys(HAND_OBJECT_HEADS, HELD_OBJECTS),
}  # fmt: skip

SPLITS: list[str] = ["train", "validation", "test", "unseen_participant", "unseen_kitchen", "unlabelled"]

# What the simulated detector can name. Water, slices and steam are absent: they would give the class away.
DETECTOR_CATEGORIES: tuple[str, ...] = (
    "hand", "drawer", "cupboard", "tap", "mug", "plate", "bottle", "carrot", "bread", "pot", "knife", "spoon",
    "sponge", "board", "bowl", "apple", "cloth",
)  # fmt: skip
OBJECT_CATEGORIES: tuple[str, ...] = DETECTOR_CATEGORIES[1:]


def action_index(name: str) -> int:
    """Returns the class index of an action name such as ``"open drawer"``; KeyError-free lookup raises ValueError."""
    return ACTION_NAMES.index(name)


def verb_index(action: int) -> int:
    """Returns the verb class of an action class."""
    return VERBS.index(ACTIONS[action].verb)


def noun_index(action: int) -> int:
    """Returns the noun class of an action class."""
    return NOUNS.index(ACTIONS[action].noun)

"""``egoloom distill RECIPE --distillation.teachers RUN ...``: teach an RGB-only student with multimodal teachers."""

from egoloom.cli import train


def main(arguments: list[str]) -> None:
    """Parses, distils and prints where the result lies."""
    train.run("distill", arguments)

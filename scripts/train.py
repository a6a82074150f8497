"""Trains or distils a recogniser: ``scripts/train.py RECIPE ...`` is ``egoloom train RECIPE ...``.

With ``--distillation.teachers RUN ...`` the run is distilled, as ``egoloom distill`` does it.
"""

import sys

from egoloom.cli.main import main

if __name__ == "__main__":
    arguments = sys.argv[1:]
    is_distilled = any(argument.startswith("--distillation.") for argument in arguments)
    main(["distill" if is_distilled else "train", *arguments])

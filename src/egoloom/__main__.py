"""``python -m egoloom``: the same as the ``egoloom`` command."""

import sys

from egoloom.cli.main import main

sys.exit(main())

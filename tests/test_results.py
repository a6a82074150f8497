"""Figures in documents are those of the records."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_table_is_what_its_record_says():
    command = [sys.executable, str(ROOT / "scripts" / "render_results.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

"""Tables are read without threads of Arrow, which abort a process that ends before they do."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from egoloom.clips.media import write_table
from egoloom.clips.parquet import read_parquet

COUNT = """
import os, sys
from pathlib import Path
from egoloom.clips.media import read_table
before = len(os.listdir("/proc/self/task"))
read_table(Path(sys.argv[1]))
print(len(os.listdir("/proc/self/task")) - before)
"""


def test_reading_is_what_pyarrow_reads(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_table(path, {"time_s": [0.0, 0.5], "name": ["mug", "plate"], "box": [[1.0, 2.0], [3.0, 4.0]]})
    assert read_parquet(path).equals(pq.read_table(path))
    assert read_parquet(pa.BufferReader(path.read_bytes())).equals(pq.read_table(path))


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted where the system lists them")
def test_reading_starts_no_thread(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_table(path, {"time_s": [0.0, 0.5]})
    done = subprocess.run([sys.executable, "-c", COUNT, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"

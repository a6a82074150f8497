"""Work in several processes: nobody stays behind when the process that gave it is killed."""

import os
import signal
import subprocess
import sys
import time

SCRIPT = """
import os, pathlib, sys, time
from egoloom._parallel import map_unordered

def work(folder):
    pathlib.Path(folder, str(os.getpid())).touch()
    time.sleep(120)

if __name__ == "__main__":
    list(map_unordered(work, [sys.argv[1]] * 4, num_workers=2, progress=False))
"""


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as handle:
            return handle.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_workers_end_with_a_killed_parent(tmp_path):
    script, folder = tmp_path / "script.py", tmp_path / "pids"
    script.write_text(SCRIPT)
    folder.mkdir()
    parent = subprocess.Popen([sys.executable, str(script), str(folder)])
    wait_until(lambda: len(list(folder.iterdir())) == 2)
    workers = [int(path.name) for path in folder.iterdir()]
    assert all(map(is_alive, workers))
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    wait_until(lambda: not any(map(is_alive, workers)))

"""Runs every command of the README, in its order, in one folder, as a new user would.

Two things differ, both through switches that the README explains: `make demo` runs at smoke size (`DEMO_ARGS`), and
`make test` is only checked to be there, since this test is part of it. Commands that name real recordings run where
those are (EGOLOOM_REAL_DATA) and are skipped elsewhere.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
SMOKE = (
    "--num-takes 40 --num-exo-takes 2 --ego-size-px 64 --exo-size-px 80 64 --recognition-epochs 2 "
    "--lora-steps 2 --experiment-labels 1 --experiment-seeds 1 --experiment-steps 2 --num-workers 1"
)
# What a run at full size would take minutes for, at a size that takes seconds.
SHORTER = {
    "--num-clips 300": "--num-clips 40 --size 64 --no-anti-aliasing --workers 1",
    "train tiny": "train tiny --optimisation.epochs 2",
    "distill tiny": "distill tiny --optimisation.epochs 2",
    "bench runs/student": "bench runs/student --seconds 0.05 --max-clips 8",
}
REAL = "../shared/data"


def readme_commands() -> list[str]:
    """Every line of every ``bash`` block, continued lines joined, comments dropped."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = []
    for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            command = line.split("  #")[0].strip()
            if command and not command.startswith("#"):
                commands.append(command)
    return commands


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """A folder that looks like a fresh clone with its environment made."""
    folder = tmp_path_factory.mktemp("readme") / "egoloom"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "scripts", "benchmarks"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    (folder / ".venv" / "bin").mkdir(parents=True)
    for tool in BIN.iterdir():
        (folder / ".venv" / "bin" / tool.name).symlink_to(tool)
    (folder / ".venv" / ".ready").touch()
    return folder


def run(command: str, folder: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        executable="/bin/bash",
    )


def adapted(command: str, real_data: Path | None) -> str | None:
    """Returns the command at smoke size, or None where it cannot run here."""
    if REAL in command:
        if real_data is None:
            return None
        command = command.replace(REAL, shlex.quote(str(real_data)))
    if command.startswith("make demo"):
        return f"{command} DEMO_ARGS={shlex.quote(SMOKE)}"
    if command.startswith("source "):
        return None
    if command.startswith(("make test", "make lint")):
        return command.replace("make", "make --dry-run", 1)
    for long, short in SHORTER.items():
        command = command.replace(long, short)
    return command


def find_real_data() -> Path | None:
    path = Path(os.environ.get("EGOLOOM_REAL_DATA", ROOT.parent / "shared" / "data"))
    return path if path.is_dir() else None


def test_the_readme_starts_with_the_two_commands():
    commands = readme_commands()
    assert commands[:2] == ["make demo", "make test"]


@pytest.mark.slow
def test_every_command_of_the_readme_works(workplace):
    real_data = find_real_data()
    never_made: list[str] = []
    for command in readme_commands():
        wanted = adapted(command, real_data)
        if wanted is None or any(path in command for path in never_made):
            never_made += re.findall(r"(?:--out |OUT=)(\S+)", command)
            continue
        done = run(wanted, workplace)
        assert done.returncode == 0, f"$ {command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"

"""Stages of a long run: each is timed, its result kept, and a repeated run continues with the first unfinished one."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from egoloom.clips.files import write_text


class Stages:
    """Runs named stages once and remembers their results.

    Args:
        folder: Where results are kept, one JSON file a stage.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds: dict[str, float] = {}
        self._console = Console()

    def run(self, name: str, title: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Returns the result of a stage: what an earlier run kept, or what ``work`` returns now."""
        path = self.folder / f"{name}.json"
        if path.exists():
            kept = json.loads(path.read_text(encoding="utf-8"))
            self.seconds[name] = kept["seconds"]
            self._console.print(f"[dim]{title}: done before[/dim]")
            return kept["result"]
        self._console.print(f"[bold]{title}[/bold]")
        start_s = time.perf_counter()
        result = work()
        self.seconds[name] = round(time.perf_counter() - start_s, 2)
        write_text(path, json.dumps({"seconds": self.seconds[name], "result": result}, indent=1) + "\n")
        self._console.print(f"[dim]  {self.seconds[name]:.0f} s[/dim]")
        return result

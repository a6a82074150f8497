"""``egoloom ingest``: turns recordings or a public data set into a clip store."""

import json
import sys
from collections import Counter

import tyro

from egoloom.clips import ClipStore
from egoloom.errors import UserError
from egoloom.ingest.sources import SOURCES, find_source


def overview() -> str:
    """The help page of ``egoloom ingest`` without a source."""
    width = max(map(len, SOURCES))
    lines = ["usage: egoloom ingest SOURCE --source PATH --out STORE [options]", "", "sources:"]
    lines += [f"  {name.ljust(width)}  {source.summary}" for name, source in SOURCES.items()]
    lines += ["", "egoloom ingest SOURCE --help says which files are expected and where to get them."]
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Runs the verb."""
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(overview())
        sys.exit(0)
    name, *rest = arguments
    if name.startswith("-"):
        raise UserError(
            f"The source comes first, not {name!r}", allowed=", ".join(SOURCES), fix="egoloom ingest --help"
        )
    source = find_source(name)
    store = tyro.cli(
        source.load(),
        prog=f"egoloom ingest {name}",
        description=source.help_text(),
        args=rest,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    print(summary(store))


def summary(store: ClipStore) -> str:
    """What an ingest made, what failed, and what to do next."""
    splits = ", ".join(
        f"{split or 'no split'} {count}" for split, count in Counter(c.split for c in store.clips).items()
    )
    modalities = Counter(str(modality) for clip in store.clips for modality in clip.present)
    lines = [
        f"{store.path}: {len(store.videos)} videos, {len(store.clips)} clips ({splits})",
        "  modalities: " + ", ".join(f"{modality} {count}" for modality, count in sorted(modalities.items())),
    ]
    failed = store.path / "ingest_failures.json"
    if failed.exists():
        failures = json.loads(failed.read_text(encoding="utf-8"))
        lines.append(f"  {len(failures)} recordings were left out (all of them: {failed}):")
        lines += [f"    {failure['name']}: {failure['reason']}" for failure in failures[:5]]
    lacking = [
        name
        for name, needed in (("flow", "rgb"), ("spectrogram", "audio"))
        if modalities.get(name, 0) < modalities.get(needed, 0)
    ]
    if lacking:
        lines.append(f"next: egoloom modalities {' '.join(lacking)} --store {store.path}")
    else:
        lines.append(f"next: egoloom doctor --store {store.path}")
    return "\n".join(lines)

"""Entry point: finds the verb, loads only its file, and turns a user's mistake into a short message."""

import importlib
import os
import sys
from dataclasses import dataclass

from egoloom.errors import UserError

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


@dataclass(frozen=True)
class Verb:
    """One command: the module below ``egoloom.cli`` that holds its ``main`` and a line for the overview."""

    module: str
    summary: str


VERBS: dict[str, Verb] = {
    "demo": Verb("demo", "run the whole loop once and write a report"),
    "kitchen": Verb("kitchen", "make the built-in ego and exo data set"),
    "ingest": Verb("ingest", "turn recordings or a public data set into a clip store"),
    "modalities": Verb("modalities", "compute flow or spectrograms for a store that lacks them"),
    "doctor": Verb("doctor", "check the installation, or a store"),
    "view": Verb("view", "write a side-by-side video of one clip with all its modalities"),
    "train": Verb("train", "train one recogniser on labels"),
    "distill": Verb("distill", "teach an RGB-only student with multimodal teachers"),
    "experiment": Verb("experiment", "compare training with and without teachers, or generated clips, over seeds"),
    "evaluate": Verb("evaluate", "measure a run, a file of scores, or generated clips"),
    "calibrate": Verb("calibrate", "make stated probabilities true on held-out clips"),
    "predict": Verb("predict", "name the action in a video"),
    "ego-prior": Verb("ego_prior", "render what the wearer would see from an exo video, depth and cameras"),
    "exo2ego": Verb("exo2ego", "train the generator, or generate ego video from exo video"),
    "augment": Verb("augment", "generate, mark and store ego clips for the exo clips of a store"),
    "correspond": Verb("correspond", "find points and boxes of the exo view in the ego view, and back"),
    "export": Verb("export", "write a trained student for a device, checked against PyTorch"),
    "stream": Verb("stream", "follow a video, camera or network stream and write events"),
    "bench": Verb("bench", "measure latency, memory, size and accuracy on this machine"),
    "report": Verb("report", "write the HTML report of a run again"),
}


def overview() -> str:
    """The help page of ``egoloom`` without a verb."""
    width = max(map(len, VERBS))
    lines = ["usage: egoloom VERB [options]", "", "verbs:"]
    lines += [f"  {name.ljust(width)}  {verb.summary}" for name, verb in VERBS.items()]
    lines += ["", "egoloom VERB --help shows the options of one verb."]
    return "\n".join(lines)


def run_verb(arguments: list[str]) -> None:
    """Runs one verb; raises what it raises."""
    name, *rest = arguments
    if name not in VERBS:
        raise UserError(f"Unknown verb: {name!r}", allowed=", ".join(VERBS), fix="egoloom --help")
    module = importlib.import_module(f"egoloom.cli.{VERBS[name].module}")
    try:
        module.main(rest)
    except Exception as error:
        # Options become configurations that check their own ranges; loading pydantic only to catch would cost time.
        if type(error).__name__ != "ValidationError":
            raise
        from egoloom.recipes.run_config import describe

        raise UserError(f"An option does not fit: {describe(error)}", fix=f"egoloom {name} --help") from error  # type: ignore[arg-type]


def main(arguments: list[str] | None = None) -> None:
    """The console script ``egoloom``."""
    # Threads that spin while they wait starve one another on a shared machine; it must be said before torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(overview())
        sys.exit(0)
    if arguments[0] in {"-V", "--version"}:
        from egoloom import __version__

        print(f"egoloom {__version__}")
        sys.exit(0)
    try:
        run_verb(arguments)
    except UserError as error:
        print(f"egoloom: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        print("egoloom: interrupted; what was finished is kept, the same command continues", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()


if __name__ == "__main__":
    main()

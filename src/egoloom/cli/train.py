"""``egoloom train RECIPE``: train one recogniser on labels. ``scripts/train.py`` is the same function."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import ValidationError

from egoloom.errors import UserError
from egoloom.recipes.registry import RECIPES, get_recipe
from egoloom.recipes.run_config import RunConfig, describe, load_run_config

USAGE = """usage: egoloom {verb} RECIPE --out RUN [--data.store STORE] [--FIELD VALUE ...]
       egoloom {verb} --from-config RUN/config.yaml --out RUN

recipes:
{recipes}

egoloom {verb} RECIPE --help lists every field of the recipe with its value."""


@dataclass
class Arguments:
    """Options of ``egoloom train`` and ``egoloom distill``.

    Attributes:
        out: The run folder; the same command continues an interrupted run there.
        resume: Continue an interrupted run; with --no-resume an existing run is refused.
        json: Print the metrics as one JSON line.
        config: The recipe's fields.
    """

    config: Annotated[RunConfig, tyro.conf.arg(name=""), tyro.conf.AvoidSubcommands]
    out: Path = Path("runs/train")
    resume: bool = True
    json: bool = False


def main(arguments: list[str]) -> None:
    """Parses, trains and prints where the result lies."""
    run("train", arguments)


def run(verb: str, arguments: list[str]) -> None:
    """Runs ``train`` or ``distill``; they differ in whether teachers are asked for."""
    base, rest = _base_config(verb, arguments)
    parsed = parse(verb, base, rest)
    if verb == "distill" and not (parsed.config.distillation and parsed.config.distillation.teachers):
        raise UserError("Distilling needs teachers", fix="give --distillation.teachers RUN [RUN ...]")
    from egoloom._distributed import is_main
    from egoloom.recipes.recognition import train_recogniser

    metrics = train_recogniser(parsed.config, parsed.out, resume=parsed.resume, label=verb)
    if not is_main():
        return
    if parsed.json:
        print(json.dumps(metrics))
        return
    for split, values in metrics["splits"].items():
        for head, figures in values["heads"].items():
            print(f"{split:20} {head:8} top-1 {figures['top1']:6.1%}   ECE {figures['ece']:6.1%}")
    print(f"wrote {parsed.out / 'metrics.json'}")
    print(f"next: egoloom export {parsed.out} --out {parsed.out / 'artefact'}")


def parse(verb: str, base: RunConfig, arguments: list[str]) -> Arguments:
    """Returns the arguments on top of a base configuration.

    Raises:
        UserError: If a value breaks a rule of the configuration.
    """
    default = Arguments(config=base, out=Path("runs") / (base.recipe if verb == "train" else f"{base.recipe}-student"))
    try:
        return tyro.cli(Arguments, default=default, args=arguments, prog=f"egoloom {verb} RECIPE")
    except ValidationError as error:
        raise UserError(describe(error), fix=f"egoloom {verb} {base.recipe} --help") from error


def _base_config(verb: str, arguments: list[str]) -> tuple[RunConfig, list[str]]:
    from egoloom.distillation.config import DistillationConfig

    if not arguments or arguments[0] in {"-h", "--help"}:
        recipes = "\n".join(f"  {name:18} {(recipe.__doc__ or '').splitlines()[0]}" for name, recipe in RECIPES.items())
        print(USAGE.format(verb=verb, recipes=recipes))
        raise SystemExit(0)
    if arguments[0] == "--from-config":
        if len(arguments) < 2:
            raise UserError("--from-config needs a file", fix=f"egoloom {verb} --from-config RUN/config.yaml")
        return load_run_config(Path(arguments[1])), arguments[2:]
    config = get_recipe(arguments[0])
    if verb == "distill":
        config = config.model_copy(update={"distillation": DistillationConfig()})
    return config, arguments[1:]

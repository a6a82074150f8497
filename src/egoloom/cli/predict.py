"""``egoloom predict``: names the action in a video."""

import json as json_format
from pathlib import Path
from typing import Annotated

import tyro


def predict(
    model: Annotated[Path, tyro.conf.Positional],
    video: Annotated[Path, tyro.conf.Positional],
    num_views: int = 3,
    num_threads: int = 0,
    json: bool = False,
) -> None:
    """Prints the five most likely actions of a video with calibrated probabilities.

    Args:
        model: An .onnx file that `egoloom export` wrote, an artefact folder, or a checkpoint or run folder.
        video: A video file.
        num_views: Regular views whose logits are averaged.
        num_threads: Threads of the runtime; 0 uses all cores.
        json: Print one JSON line instead.
    """
    from egoloom.deployment.artefact import load_student
    from egoloom.deployment.prediction import predict_video
    from egoloom.errors import UserError

    if num_views < 1:
        raise UserError(f"--num-views {num_views} is too few", allowed="1 or more")
    if not video.is_file():
        raise UserError(f"There is no video at {video}")
    prediction = predict_video(load_student(model, num_threads=num_threads), video, num_views=num_views)
    if json:
        print(json_format.dumps({"model": str(model), **prediction.to_dict()}))
        return
    views = len(prediction.view_starts_s)
    print(f"{video}  {prediction.duration_s:.1f} s, {views} view{'s' if views > 1 else ''} averaged")
    for name, probability in prediction.top():
        print(f"  {probability:6.1%}  {name}")
    for head in prediction.log_probs:
        if head != prediction.main_head:
            best = ", ".join(f"{name} {probability:.1%}" for name, probability in prediction.top(head, k=3))
            print(f"  {head}: {best}")
    print(f"Next: egoloom stream FOLDER --input {video}")


def main(arguments: list[str]) -> None:
    """Runs the verb."""
    tyro.cli(predict, prog="egoloom predict", args=arguments)

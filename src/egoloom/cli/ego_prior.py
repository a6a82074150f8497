"""``egoloom ego-prior``: renders what the wearer would see from an exo video, depth and cameras."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from egoloom.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from egoloom.cameras import Camera
    from egoloom.exo2ego.prior import EgoPrior
    from egoloom.exo2ego.prior.user_files import PlacedPoses
    from egoloom.ingest.egox import EgoXTake


@dataclass
class EgoPriorArguments:
    """Renders the ego prior of a take in the EgoX layout."""

    folder: tyro.conf.Positional[Path]
    """Folder of meta.json."""
    take: str | None = None
    """Name of the take, or a unique beginning; not needed where there is only one."""
    out: Path = Path("prior.mp4")
    """The prior's video; masks, preview and meta.json go into a folder of the same name. Or a folder."""
    mode: Literal["correct", "compat"] = "correct"
    """correct: right cameras and scale; compat: the geometry the published EgoX weights were trained with."""
    depth_scale: float | None = None
    """Factor on depth; solved from the scene if not given (correct mode)."""
    calibration: Path | None = None
    """Lens calibration; looked for beside and above the takes if not given."""
    store: Path | None = None
    """Also append the prior to this clip store (made if it is not there)."""
    size: int = 448
    """Side of the square prior in pixels (correct mode)."""
    dynamic: bool | None = None
    """Also draw what moves; default: no (in compat mode: for in-the-wild takes, as published)."""
    far_side: float = 0.0
    """Also guess the far side, which the exo camera did not see, of parts thinner than twice this, in m; arms and hands
    have 0.06 (correct mode)."""
    exo_fit: Literal["layout", "same", "centre_crop", "resize"] = "layout"
    """How the exo video lies in the depth grid where their sizes differ."""
    pose_fps: float | None = None
    """Rate of the ego poses where it is not the video's."""
    ego_poses: Path | None = None
    """JSON file with poses of the upright ego camera that replace those of meta.json (the pose editor writes one)."""
    estimate_pose: bool = False
    """Estimate the ego poses from the exo video instead of reading them."""
    keypoints: Path | None = None
    """JSON file with head and hand keypoints in exo pixels, for --estimate-pose."""
    person_mask: Path | None = None
    """.npz with mask [T, H, W] of the wearer in exo pixels; what moves is taken if not given."""
    first_ego_frame: bool = False
    """Use the first frame of ego_GT to find the depth scale."""
    pose_editor: Path | None = None
    """Also write an HTML page in which poses can be placed by clicking; it saves a file for --ego-poses."""
    rerun: Path | None = None
    """Also write a Rerun recording (.rrd); needs the extra viz."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print the result as JSON."""
    notes: Annotated[list[str], tyro.conf.Suppress] = field(default_factory=list)


def main(arguments: list[str]) -> None:
    """Runs the verb."""
    options = tyro.cli(EgoPriorArguments, prog="egoloom ego-prior", args=arguments)
    from egoloom.ingest.egox import find_take, read_takes

    if options.depth_scale is not None and not options.depth_scale > 0:
        raise UserError(f"The depth scale is {options.depth_scale}.", allowed="a positive number")
    if not 0 <= options.far_side < float("inf"):
        raise UserError(f"--far-side {options.far_side} is no radius.", allowed="metres, 0 or more; 0.06 for arms")
    takes = read_takes(
        options.folder, calibration=options.calibration, exo_fit=options.exo_fit, pose_fps=options.pose_fps
    )
    take = find_take(takes, options.take)
    if options.calibration and not options.calibration.is_file():
        raise UserError(f"There is no calibration at {options.calibration}.")
    render = _render_correct if options.mode == "correct" else _render_compat
    report = render(take, options)
    if options.as_json:
        print(json.dumps(report))
        return
    for note in report["notes"]:
        print(f"  {note}")
    print(f"{report['prior']}: coverage {report['coverage']:.2f}, depth scale {report['depth_scale']:.3f} "
          f"(confidence {report['scale_confidence']:.2f})")  # fmt: skip
    if options.mode == "correct":
        print(f"next: egoloom exo2ego generate {report['folder']} --take {take.name}")
    else:
        print(f"next: put {report['folder']} below example/ of the public EgoX, whose weights know this geometry")


def _render_correct(take: "EgoXTake", options: EgoPriorArguments) -> dict:
    from egoloom.exo2ego.prior import PriorConfig, ScaleEvidence, render_ego_prior

    frames, depth = take.exo_frames(), take.depth()
    wearer, placed = _wearer(take, options), _placed_poses(take, options)
    depth_scale = _known_scale(take, options, placed)
    if options.pose_editor:
        from egoloom.exo2ego.prior.pose_editor import write_pose_editor

        write_pose_editor(
            options.pose_editor, frames, depth, take.exo_camera, take.T_world_exo, float(take.fps), take.up_world,
            depth_scale=depth_scale or 1.0,
        )  # fmt: skip
        options.notes.append(f"pose editor: {options.pose_editor}")
    poses = _ego_poses(take, options, depth, wearer, placed, depth_scale or 1.0)
    first = take.ego_gt_frames()[0] if options.first_ego_frame else None
    ego_camera = take.ego_camera((options.size, options.size))
    prior = render_ego_prior(
        frames, depth, take.exo_camera, take.T_world_exo, ego_camera, poses,
        config=PriorConfig(
            depth_scale=depth_scale, include_dynamic=bool(options.dynamic), far_side_radius_m=options.far_side
        ),
        dynamic_THW=wearer,
        evidence=ScaleEvidence(up_world=take.up_world, first_ego_frame_CHW=first, wearer_THW=wearer),
    )  # fmt: skip
    if prior.scale is not None:
        for cue in prior.scale.cues:
            options.notes.append(f"scale from {cue.name}: {cue.scale:.3f} +- {100 * cue.log_sigma:.0f} % {cue.note}")
        if prior.scale_confidence < 0.5:
            options.notes.append("the depth scale is uncertain: look at preview.mp4, or give --depth-scale")
    return _write(take, options, prior, ego_camera, poses, depth)


def _known_scale(take: "EgoXTake", options: EgoPriorArguments, placed: "PlacedPoses | None") -> float | None:
    """The depth scale where it is given or does not matter, with a note why; None where it must be solved."""
    if options.depth_scale is not None:
        return options.depth_scale
    if placed is not None and placed.depth_scale is not None:
        options.notes.append(f"the poses were placed in depth times {placed.depth_scale:.3f}: that is the scale")
        return placed.depth_scale
    if options.estimate_pose:
        options.notes.append("poses are estimated from this very depth: the prior does not depend on its scale")
        return 1.0
    if take.known_depth_scale is not None:
        options.notes.append("depth and poses of this take fit each other already: scale 1")
    return take.known_depth_scale


def _render_compat(take: "EgoXTake", options: EgoPriorArguments) -> dict:
    import numpy as np

    from egoloom.exo2ego.prior import EgoPrior
    from egoloom.exo2ego.prior.compat import CompatConfig, compat_ego_camera, render_compat_prior

    if take.T_world_exo.ndim == 3:
        raise UserError("The published geometry knows no moving exo camera.", fix="--mode correct")
    if take.calibration is None or take.calibration.ego_sensor is None:
        raise UserError(
            "Compat mode needs the ego lens at sensor size.", fix="--calibration FILE with aria_rgb_fisheye624"
        )
    camera = compat_ego_camera(take.calibration.ego_sensor)
    window, (width, height) = take.exo_window, take.depth_grid_size
    frames = take.exo_frames()
    grid = np.zeros((len(frames), 3, height, width), np.uint8)
    seen = np.zeros((height, width), bool)
    inside = np.s_[window.y0 : window.y0 + window.height, window.x0 : window.x0 + window.width]
    if frames.shape[2:] != (window.height, window.width):
        raise UserError("Compat mode needs an exo video of the depth grid's scale.", fix="--mode correct")
    grid[(slice(None), slice(None), *inside)], seen[inside] = frames, True
    dynamic = take.is_exo_world if options.dynamic is None else options.dynamic
    placed = _placed_poses(take, options)
    depth, poses = take.depth(full_grid=True), _ego_poses(take, options, take.depth(), None, placed, 1.0)
    scale = options.depth_scale or 1.0
    made = render_compat_prior(
        grid, depth * np.float32(scale), take.pinhole_on_grid(), take.T_world_exo, camera, poses,
        seen_HW=seen, config=CompatConfig(include_dynamic=dynamic),
    )  # fmt: skip
    known = (~made.hole_mask_THW).astype(np.float32)
    prior = EgoPrior(made.frames_TCHW, made.hole_mask_THW, known, np.zeros_like(known), scale, 0.0)
    options.notes.append("compat mode: the reference's geometry, misplaced by tens of pixels on purpose")
    return _write(take, options, prior, camera, poses, take.depth())


def _wearer(take: "EgoXTake", options: EgoPriorArguments) -> "np.ndarray | None":
    if options.person_mask is None:
        return None
    from egoloom.exo2ego.prior.user_files import read_person_mask

    return read_person_mask(options.person_mask, take.num_frames, take.exo_size)


def _placed_poses(take: "EgoXTake", options: EgoPriorArguments) -> "PlacedPoses | None":
    if options.ego_poses is None:
        return None
    from egoloom.exo2ego.prior.user_files import read_ego_poses

    return read_ego_poses(options.ego_poses, take.times_s)


def _ego_poses(
    take: "EgoXTake",
    options: EgoPriorArguments,
    depth: "np.ndarray",
    wearer: "np.ndarray | None",
    placed: "PlacedPoses | None",
    depth_scale: float,
) -> "torch.Tensor":
    if placed is not None:
        return placed.T_world_ego_T
    if not options.estimate_pose:
        return take.T_world_ego()
    from egoloom.exo2ego.prior import fuse_background
    from egoloom.exo2ego.prior.ego_pose import estimate_ego_poses
    from egoloom.exo2ego.prior.user_files import read_keypoints

    if wearer is None and take.T_world_exo.ndim == 3:
        raise UserError(
            "A moving camera sees everything move, so the wearer cannot be told from the room.",
            fix="--person-mask FILE.npz with mask [T, H, W]",
        )
    estimate = estimate_ego_poses(
        depth, fuse_background(take.exo_frames(), depth).is_dynamic_THW if wearer is None else wearer,
        take.exo_camera, take.T_world_exo, up_world=take.up_world, fps=float(take.fps), depth_scale=depth_scale,
        keypoints=read_keypoints(options.keypoints) if options.keypoints else None,
    )  # fmt: skip
    options.notes.append(
        f"ego poses estimated from the exo video: head in {int(estimate.head_found_T.sum())}, hands in "
        f"{int(estimate.hands_found_T.sum())} of {len(depth)} frames"
    )
    return estimate.T_world_ego_T


def _write(
    take: "EgoXTake",
    options: EgoPriorArguments,
    prior: "EgoPrior",
    ego_camera: "Camera",
    poses: "torch.Tensor",
    depth: "np.ndarray",
) -> dict:
    import shutil

    from egoloom.clips.files import atomic_path
    from egoloom.exo2ego.prior.artefacts import PriorSource, write_prior

    window = take.exo_window
    source = PriorSource(
        take.name, take.exo_path, take.depth_paths[: take.num_frames], take.exo_frames(), take.exo_camera,
        take.T_world_exo, ego_camera, poses, take.fps, take.entry, (window.x0, window.y0, window.width, window.height),
    )  # fmt: skip
    is_file = options.out.suffix.lower() == ".mp4"
    folder = options.out.with_suffix("") if is_file else options.out
    notes = [*dict.fromkeys([*take.notes, *options.notes])]
    path = write_prior(folder, prior, source, mode=options.mode, notes=notes)
    if is_file:
        with atomic_path(options.out) as temporary:
            shutil.copyfile(path, temporary)
    if options.store:
        from egoloom.exo2ego.prior.clip_store import append_prior

        options.notes.append(
            f"{options.store}: clip {append_prior(options.store, prior, source, mode=options.mode).clip_id}"
        )
        notes = [*dict.fromkeys([*take.notes, *options.notes])]
    if options.rerun:
        from egoloom.exo2ego.prior.rerun_scene import write_rerun

        write_rerun(options.rerun, prior, source, depth[0])
    return {
        "prior": str(options.out if is_file else path),
        "folder": str(folder),
        "take": take.name,
        "mode": options.mode,
        "num_frames": len(prior.frames_TCHW),
        "coverage": prior.coverage,
        "depth_scale": prior.depth_scale,
        "scale_confidence": prior.scale_confidence,
        "scale": prior.scale.to_dict() if prior.scale else None,
        "notes": [*notes, *prior.notes],
    }

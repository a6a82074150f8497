"""Lens calibration of takes in the EgoX layout, which the layout itself lacks: where it is looked for, what it says."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from egoloom.cameras import Camera, Fisheye624, camera_from_dict
from egoloom.cameras.base import Camera as CameraBase
from egoloom.errors import UserError
from egoloom.ingest.documents import read_json
from egoloom.ingest.egox_entry import checked_crop

FILE_NAME = "calibration.json"
LEVELS_ABOVE = 3

# Aria records RGB at 1408x1408: the 2880 px sensor loses 32 px on each side, then is halved.
ARIA_SENSOR_PX, ARIA_CROP_PX = 2880, 32


@dataclass(frozen=True, eq=False)
class EgoXCalibration:
    """What a calibration file tells about a take.

    Attributes:
        path: The file.
        ego_sensor: The ego lens at the un-rotated sensor's full size, or None.
        ego_upright: The ego lens of the upright video, given directly, or None.
        exo: The exo lens of the raw video, given directly, or None.
        exo_distortion: Kannala-Brandt coefficients k1..k4 of the exo camera, or None.
        exo_crop: The part ``(x0, y0, width, height)`` of the depth grid that the exo video shows, if stated.
    """

    path: Path
    ego_sensor: Fisheye624 | None = None
    ego_upright: Camera | None = None
    exo: Camera | None = None
    exo_distortion: tuple[float, ...] | None = None
    exo_crop: tuple[int, int, int, int] | None = None

    def ego_camera(self, image_size: tuple[int, int]) -> Camera:
        """The upright ego camera at the size of the ego video (a square resize of the 1408 px recording)."""
        if self.ego_upright is not None:
            return self.ego_upright.resize(*image_size)
        if self.ego_sensor is None:
            raise UserError(
                f"{self.path} describes no ego camera.",
                allowed='"ego": {model, params, image_size} of the upright video',
            )
        recorded = ARIA_SENSOR_PX - 2 * ARIA_CROP_PX
        sensor = self.ego_sensor.resize(ARIA_SENSOR_PX, ARIA_SENSOR_PX)
        cropped = sensor.crop(ARIA_CROP_PX, ARIA_CROP_PX, recorded, recorded)
        return cropped.rotate90(1)[0].resize(*image_size)


def find_calibration(folder: Path, take: str | None = None) -> Path | None:
    """Looks for a calibration beside the takes and above them, nearest first.

    Order: ``calibration/<take>.json``, ``<take>.calibration.json``, ``calibration.json`` in the folder, then in its
    parents up to three levels.
    """
    for level in [folder, *folder.resolve().parents[:LEVELS_ABOVE]]:
        names = [FILE_NAME] if take is None else [f"calibration/{take}.json", f"{take}.calibration.json", FILE_NAME]
        for name in names:
            if (level / name).is_file():
                return level / name
    return None


def read_calibration(path: Path) -> EgoXCalibration:
    """Reads a calibration file.

    Two forms are understood: entries ``"exo"`` and ``"ego"`` in the form of the clip store (model, params,
    image_size; ego upright; optionally ``"exo_crop"``), and the form with ``"aria_rgb_fisheye624"`` and
    ``"exo_gopro_kb4"`` that names lens parameters at sensor size.

    Raises:
        UserError: If the file is no JSON or says nothing about either camera.
    """
    content = read_json(path, dict)
    try:
        return _parse(path, content)
    except (KeyError, TypeError, IndexError, ValueError, AttributeError, OverflowError, RuntimeError) as error:
        raise UserError(f"The calibration {path} is incomplete: {error!r}", allowed="see docs/ego_prior.md") from error


def _parse(path: Path, content: dict[str, Any]) -> EgoXCalibration:
    ego: CameraBase | None = camera_from_dict(content["ego"]) if "ego" in content else None
    exo: CameraBase | None = camera_from_dict(content["exo"]) if "exo" in content else None
    sensor, distortion = None, None
    if "aria_rgb_fisheye624" in content:
        entry = content["aria_rgb_fisheye624"]
        sensor = Fisheye624(torch.tensor(entry["params"], dtype=torch.float64), tuple(entry["image_size"]))
    if "exo_gopro_kb4" in content:
        distortion = tuple(float(value) for value in content["exo_gopro_kb4"]["D"])
    if ego is None and exo is None and sensor is None and distortion is None:
        raise UserError(
            f"The calibration {path} describes no camera.",
            allowed='"exo" and "ego", or "aria_rgb_fisheye624" and "exo_gopro_kb4"',
        )
    crop = checked_crop(content["exo_crop"], f"{path}: exo_crop") if content.get("exo_crop") else None
    return EgoXCalibration(path, sensor, ego, exo, distortion, crop)

"""The focal length of raw fisheye frames from that of their undistorted versions.

Ego-Exo4D files give the intrinsics of *undistorted* exo frames, made with OpenCV's
``fisheye.estimateNewCameraMatrixForUndistortRectify`` (balance 0.8), while the videos are raw fisheye frames.
"""

from typing import Any

import numpy as np
from scipy.optimize import brentq

from egoloom.errors import UserError

EGO_EXO4D_BALANCE = 0.8


def undistorted_focal(
    raw_f_px: float, D: np.ndarray, image_size: tuple[int, int], balance: float = EGO_EXO4D_BALANCE
) -> float:
    """The focal length OpenCV chooses for the undistorted frame of a Kannala-Brandt camera with a centred axis.

    Args:
        raw_f_px: Focal length of the raw frame.
        D: Coefficients k1..k4.
        image_size: Width and height.
        balance: 0 keeps only valid pixels, 1 keeps all.
    """
    import cv2

    width, height = image_size
    K = np.array([[raw_f_px, 0, width / 2], [0, raw_f_px, height / 2], [0, 0, 1]])
    new_K = cv2.fisheye.estimateNewCameraMatrixForUndistortRectify(
        K, np.asarray(D, dtype=np.float64), (width, height), np.eye(3), balance=balance
    )
    return float(new_K[0, 0])


def raw_focal_from_undistorted(
    undistorted_f_px: float, D: np.ndarray, image_size: tuple[int, int], balance: float = EGO_EXO4D_BALANCE
) -> float:
    """The raw focal length whose undistorted frame has the given one (the inverse of :func:`undistorted_focal`).

    Raises:
        UserError: If no raw focal length between 1 and 3 times the given one explains it.
    """

    def difference(raw_f_px: float) -> float:
        return undistorted_focal(raw_f_px, D, image_size, balance) - undistorted_f_px

    low, high = 0.9 * undistorted_f_px, 3.0 * undistorted_f_px
    if not difference(low) < 0 < difference(high):
        raise UserError(
            f"No raw focal length explains an undistorted focal length of {undistorted_f_px:.1f} px at "
            f"{image_size[0]}x{image_size[1]} with the distortion {np.asarray(D).round(5).tolist()}.",
            fix="give the calibration of the camera that took the video",
        )
    root: Any = brentq(difference, low, high, xtol=1e-9 * undistorted_f_px)
    return float(root)

"""Camera models, poses, rigs, trajectories, and the algebra of crop, resize and rotation.

Conventions (docs/conventions.md): OpenCV axes (x right, y down, z forward), ``T_world_camera`` maps camera to
    world,
metres, quaternions xyzw, pixel centres at integer coordinates.
"""

from egoloom.cameras.base import Camera, camera_from_dict
from egoloom.cameras.fisheye624 import Fisheye624
from egoloom.cameras.kannala_brandt import KannalaBrandt
from egoloom.cameras.pinhole import Pinhole
from egoloom.cameras.poses import (
    as_pose,
    as_rotation,
    invert,
    look_at,
    quaternion_from_rotation,
    rigid,
    rotate_vectors,
    rotation_angle_deg,
    rotation_from_quaternion,
    slerp,
    transform_points,
    world_to_camera,
)
from egoloom.cameras.rig import PosedCamera, Rig
from egoloom.cameras.trajectory import Trajectory
from egoloom.cameras.view import CameraView

__all__ = [
    "Camera",
    "Pinhole",
    "KannalaBrandt",
    "Fisheye624",
    "camera_from_dict",
    "CameraView",
    "PosedCamera",
    "Rig",
    "Trajectory",
    "as_pose",
    "as_rotation",
    "invert",
    "look_at",
    "quaternion_from_rotation",
    "rigid",
    "rotate_vectors",
    "rotation_angle_deg",
    "rotation_from_quaternion",
    "slerp",
    "transform_points",
    "world_to_camera",
]

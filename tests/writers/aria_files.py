"""A small synthetic Gen 1 recording of Project Aria glasses with known content: RGB, both IMUs, seven microphones."""

import json
from pathlib import Path

import cv2
import numpy as np
from vrs_files import Layout, Stream, write_vrs

START_S, FPS, NUM_FRAMES, SIDE_PX = 10.0, 20, 4, 1408  # the provider knows RGB frames of 1408 and 2880 px only
IMU_HZ, AUDIO_HZ, NUM_MICROPHONES, TONE_HZ = 1000, 48_000, 7, 440.0
AUDIO_LEAD_S = 0.1  # the microphones start before the camera
ACCELERATION, ROTATION = (-9.81, 0.5, 0.25), (0.1, 0.2, 0.3)  # of the glasses, whose axes are the lying camera's
INTRINSICS = [1220.0, 1450.0, 1430.0, 0.4, -0.5, 0.2, 0.0, 0.0, 0.0, 0.001, -0.001, 0.0, 0.0, 0.0, 0.0]  # of 2880 px
OFFSET_M = [0.01, 0.02, 0.03]
CAMERA_STRINGS = (
    "device_type device_version device_serial sensor_model sensor_serial factory_calibration online_calibration "
    "description"
)
IMU_STRINGS = "device_type device_version device_serial sensor_model factory_calibration online_calibration description"
CLOCKS = (
    "capture_timestamp_ns capture_timestamp_in_processing_clock_domain_ns arrival_timestamp_ns "
    "processing_start_timestamp_ns"
)


def write_recording(path: Path) -> None:
    """Writes ``path``: the upper left quarter of the lying frame is red, the upper right one green, below is blue."""
    calibration = json.dumps(_calibration())
    tags = {"calib_json": calibration, "device_type": "Aria", "device_version": "29828000000000000"}
    imus = [_imu(number, calibration) for number in (1, 2)]
    write_vrs(path, [_rgb(calibration), _microphones(), *imus], tags)


def lying_frame() -> np.ndarray:
    """Returns the picture as the sensor sees it, BGR."""
    half = SIDE_PX // 2
    frame = np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8)
    frame[:half, :half, 2] = frame[:half, half:, 1] = frame[half:, :, 0] = 220
    return frame


def _rgb(calibration: str) -> Stream:
    image = cv2.imencode(".jpg", lying_frame())[1].tobytes()
    doubles = ("exposure_duration.min", "exposure_duration.max", "gain.min", "gain.max", "gamma_factor")
    words = ("image_width", "image_height", "image_stride", "image_pixel_format")
    configuration = Layout(
        2,
        {"camera_id": "uint32_t", "nominal_rate": "double"}
        | dict.fromkeys(words, "uint32_t")
        | dict.fromkeys(doubles, "double"),
        dict.fromkeys(CAMERA_STRINGS.split(), "string"),
    )
    data = Layout(
        2,
        dict.fromkeys(("group_id", "group_mask", "frame_number"), "uint64_t")
        | {"frame_tag": "uint32_t", "exposure_duration_s": "double", "gain": "double"}
        | dict.fromkeys(CLOCKS.split(), "int64_t")
        | {"temperature_deg_c": "double"},
        content="/size=84+image/jpg",
    )
    times = [START_S + number / FPS for number in range(NUM_FRAMES)]
    values = [{"frame_number": n, "capture_timestamp_ns": round(time_s * 1e9)} for n, time_s in enumerate(times)]
    settings = {
        "camera_id": 2,
        "nominal_rate": float(FPS),
        "image_width": SIDE_PX,
        "image_height": SIDE_PX,
        "device_type": "Aria",
        "sensor_model": "IMX577",
        "factory_calibration": calibration,
    }
    records = [(time_s, value, image) for time_s, value in zip(times, values, strict=True)]
    return Stream(214, 1, "RGB Camera Class", configuration, data, settings, records)


def _imu(number: int, calibration: str) -> Stream:
    has = ("has_accelerometer", "has_gyroscope", "has_magnetometer")
    configuration = Layout(
        2,
        {"stream_index": "uint32_t", "device_id": "uint64_t", "nominal_rate": "double"} | dict.fromkeys(has, "Bool"),
        dict.fromkeys(IMU_STRINGS.split(), "string"),
    )
    valid = ("accelerometer_valid", "gyroscope_valid", "magnetometer_valid")
    data = Layout(
        2,
        dict.fromkeys(valid, "Bool")
        | {"temperature_deg_c": "double"}
        | dict.fromkeys(CLOCKS.split(), "int64_t")
        | dict.fromkeys(("accelerometer", "gyroscope", "magnetometer"), ("float", 3)),
        content="/size=79",
    )
    settings = {
        "stream_index": number - 1,
        "device_id": number - 1,
        "nominal_rate": float(IMU_HZ),
        "has_accelerometer": 1,
        "has_gyroscope": 1,
        "device_type": "Aria",
        "factory_calibration": calibration,
    }
    # The left IMU lies turned by half a turn about z: its x and y point the other way.
    sign = 1 if number == 1 else -1
    accel = (sign * ACCELERATION[0], sign * ACCELERATION[1], ACCELERATION[2])
    gyro = (sign * ROTATION[0], sign * ROTATION[1], ROTATION[2])
    sample = {"accelerometer_valid": 1, "gyroscope_valid": 1, "accelerometer": accel, "gyroscope": gyro}
    times = START_S - 0.02 + np.arange(int(IMU_HZ * (NUM_FRAMES / FPS + 0.04))) / IMU_HZ
    records = [(float(t), sample | {"capture_timestamp_ns": round(float(t) * 1e9)}, b"") for t in times]
    return Stream(1202, number, "IMU Data (SLAM)", configuration, data, settings, records)


def _microphones() -> Stream:
    configuration = Layout(
        1,
        {
            "stream_id": "uint32_t",
            "audio_channel_count": "uint8_t",
            "audio_sample_rate": "uint32_t",
            "audio_sample_format": "uint8_t",
        },
        content="/size=10",
    )
    sound = f"+audio/pcm/int32le/channels={NUM_MICROPHONES}/rate={AUDIO_HZ}"
    data = Layout(2, {"audio_muted": "uint8_t"}, {"capture_timestamps_ns": "int64_t"}, content=sound)
    settings = {"audio_channel_count": NUM_MICROPHONES, "audio_sample_rate": AUDIO_HZ, "audio_sample_format": 13}
    records = []
    for first in range(0, int(AUDIO_HZ * (AUDIO_LEAD_S + NUM_FRAMES / FPS)), 4800):
        times = START_S - AUDIO_LEAD_S + (first + np.arange(4800)) / AUDIO_HZ
        # Second 0 of the video is a zero of the tone; microphone n hears it with the amplitude (n + 1) / 10.
        tone = np.sin(2 * np.pi * TONE_HZ * (times - START_S))[:, None] * (np.arange(NUM_MICROPHONES) + 1) / 10
        stamps = [round(float(t) * 1e9) for t in times]
        samples = np.round(tone * (2**31 - 1)).astype("<i4").tobytes()
        records.append((float(times[-1]), {"capture_timestamps_ns": stamps}, samples))
    return Stream(231, 1, "Stereo Audio Class", configuration, data, settings, records)


def _calibration() -> dict:
    """The factory calibration: no biases, no rotation between glasses, RGB camera and right IMU."""
    cameras = [
        {
            "Calibrated": True,
            "Label": label,
            "Projection": {"Name": "FisheyeRadTanThinPrism", "Description": "", "Params": INTRINSICS},
            "SerialNumber": label,
            "T_Device_Camera": {"Translation": OFFSET_M, "UnitQuaternion": [1, [0, 0, 0]]},
        }
        for label in ("camera-rgb", "camera-slam-left", "camera-slam-right")
    ]
    identity = np.eye(3).tolist()
    linear = {"Name": "Linear", "RectificationMatrix": identity}
    constant = {"Name": "Constant", "Offset": [0.0, 0.0, 0.0]}
    imus = [
        {
            "Accelerometer": {"Bias": constant, "Model": linear, "TimeOffsetSec_Device_Accel": 0.0},
            "Gyroscope": {"Bias": constant, "Model": linear, "TimeOffsetSec_Device_Gyro": 0.0},
            "Calibrated": True,
            "Label": label,
            "SerialNumber": label,
            "T_Device_Imu": {"Translation": [0.0, 0.0, 0.0], "UnitQuaternion": quaternion},
        }
        for label, quaternion in (("imu-right", [1, [0, 0, 0]]), ("imu-left", [0, [0, 0, 1]]))
    ]
    microphones = [
        {"DSensitivity1KDbv": -32.0, "Label": f"mic{index}", "SerialNumber": f"M{index}"}
        for index in range(NUM_MICROPHONES)
    ]
    return {
        "CalibrationSource": "Factory",
        "CameraCalibrations": cameras,
        "DeviceClassInfo": {"BuildVersion": "DVT-S", "DeviceClass": "Aria"},
        "FileFormat": {"Tags": [], "Timestamp": "2026-01-01T00:00:00Z", "UnixTime": 0, "Version": 3},
        "ImuCalibrations": imus,
        "MagCalibrations": [],
        "BaroCalibrations": [],
        "MicCalibrations": microphones,
        "OriginSpecification": {"ChildLabel": "camera-slam-left", "Type": "Custom"},
        "Serial": "synthetic",
    }

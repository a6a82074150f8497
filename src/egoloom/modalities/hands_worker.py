"""Finds hands with MediaPipe in an environment of its own: a plain script, which imports nothing of EgoLoom.

    python hands_worker.py MIN_CONFIDENCE [MODEL.task]

Standard input: ``width height`` in a line, then raw RGB frames. Standard output: one JSON line a frame, a list of
``{"side": "left" | "right", "score": 0..1, "points": [[x, y] * 21]}`` with points in 0..1 of the frame.
"""

import json
import sys

import mediapipe as mp  # pyright: ignore[reportMissingImports]
import numpy as np

# MediaPipe names hands as in a mirror image, which the picture of a worn camera is not.
OTHER_SIDE = {"Left": "right", "Right": "left"}


def with_built_in_model(min_confidence):
    """Returns a function from a frame to hands, with the model that mediapipe 0.10.21 carries."""
    network = mp.solutions.hands.Hands(max_num_hands=2, min_detection_confidence=min_confidence)

    def find(frame):
        result = network.process(frame)
        found = zip(result.multi_hand_landmarks or [], result.multi_handedness or [], strict=True)
        return [hand(landmarks.landmark, sides.classification[0]) for landmarks, sides in found]

    return find


def with_task_file(path, min_confidence):
    """Returns a function from a frame to hands, with a .task file and any wheel that has the tasks API."""
    vision = mp.tasks.vision
    options = vision.HandLandmarkerOptions(
        base_options=mp.tasks.BaseOptions(model_asset_path=path),
        num_hands=2,
        min_hand_detection_confidence=min_confidence,
    )
    network = vision.HandLandmarker.create_from_options(options)

    def find(frame):
        result = network.detect(mp.Image(image_format=mp.ImageFormat.SRGB, data=frame))
        found = zip(result.hand_landmarks, result.handedness, strict=True)
        return [hand(landmarks, sides[0]) for landmarks, sides in found]

    return find


def hand(landmarks, side):
    """Returns one hand as plain values."""
    name = getattr(side, "label", None) or side.category_name
    points = [[round(point.x, 5), round(point.y, 5)] for point in landmarks]
    return {"side": OTHER_SIDE.get(name, name), "score": round(side.score, 4), "points": points}


def main():
    """Reads frames until the input ends."""
    min_confidence = float(sys.argv[1])
    find = with_task_file(sys.argv[2], min_confidence) if len(sys.argv) > 2 else with_built_in_model(min_confidence)
    source, target = sys.stdin.buffer, sys.stdout
    width, height = map(int, source.readline().split())
    while len(content := source.read(width * height * 3)) == width * height * 3:
        frame = np.frombuffer(content, np.uint8).reshape(height, width, 3)
        target.write(json.dumps(find(frame)) + "\n")
        target.flush()


if __name__ == "__main__":
    main()

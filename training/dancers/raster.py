"""Software rasterizer: a visibility buffer with perspective-correct weights, compiled by numba.

Shape letters: V vertices, F triangles, N covered pixels, C channels, R regions, H W pixels.
Projected vertices are `(V, 3)` float32: x and y in pixels (centre of pixel 0 at 0.5), and 1/depth (larger is
nearer).
"""

from dataclasses import dataclass

import numba
import numpy as np

_jit = numba.njit(cache=True, fastmath=True, nogil=True)


@dataclass
class Visibility:
    """The nearest surface in each pixel.

    Attributes:
        face: number of the triangle, int32 (H, W); -1 where there is none.
        weights: barycentric weights of its corners 0 and 1, float32 (H, W, 2).
        inverse_depth: float32 (H, W); 0 where there is nothing.
    """

    face: np.ndarray
    weights: np.ndarray
    inverse_depth: np.ndarray

    @classmethod
    def empty(cls, size: int) -> "Visibility":
        """A square buffer with sides of `size` pixels in which nothing has been drawn."""
        return cls(
            np.full((size, size), -1, np.int32),
            np.zeros((size, size, 2), np.float32),
            np.zeros((size, size), np.float32),
        )

    def draw(
        self, points: np.ndarray, faces: np.ndarray, *, first_face: int = 0, cut: np.ndarray | None = None
    ) -> None:
        """Draw triangles into the buffer.

        Args:
            points: projected vertices, (V, 3).
            faces: int32 (F, 3).
            first_face: is added to the stored face numbers, so that several meshes can share a buffer.
            cut: float32 (V,); pixels at which its interpolated value is negative are left out.
        """
        # numba compiles for array arguments, so None is replaced by an array that is not read.
        used = cut if cut is not None else np.zeros(1, np.float32)
        _draw(points, faces, used, cut is not None, first_face, self.face, self.weights, self.inverse_depth)

    def covered(self, first_face: int, faces: int) -> np.ndarray:
        """Flat indices (N,) of the pixels that show a face in [first_face, first_face + faces)."""
        flat = self.face.ravel()
        return np.flatnonzero((flat >= first_face) & (flat < first_face + faces))


@_jit
def _draw(points, faces, cut, use_cut, first_face, out_face, out_weights, out_depth):
    height, width = out_face.shape
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        # Interpolated values of such a triangle are negative everywhere.
        if use_cut and cut[a] < 0 and cut[b] < 0 and cut[c] < 0:
            continue
        ax, ay, az = points[a, 0], points[a, 1], points[a, 2]
        bx, by, bz = points[b, 0], points[b, 1], points[b, 2]
        cx, cy, cz = points[c, 0], points[c, 1], points[c, 2]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        # Degenerate triangles, and those that reach behind the camera.
        if area == 0 or az <= 0 or bz <= 0 or cz <= 0:
            continue
        x0, x1 = (
            max(0, int(np.ceil(min(ax, bx, cx) - 0.5))),
            min(width - 1, int(np.floor(max(ax, bx, cx) - 0.5))),
        )
        y0, y1 = (
            max(0, int(np.ceil(min(ay, by, cy) - 0.5))),
            min(height - 1, int(np.floor(max(ay, by, cy) - 0.5))),
        )
        for y in range(y0, y1 + 1):
            py = y + 0.5
            for x in range(x0, x1 + 1):
                px = x + 0.5
                # Barycentric weights on the screen; the sign of the
                # area makes them positive inside for either winding.
                u = ((bx - px) * (cy - py) - (by - py) * (cx - px)) / area
                v = ((cx - px) * (ay - py) - (cy - py) * (ax - px)) / area
                w = 1.0 - u - v
                if u < 0 or v < 0 or w < 0:
                    continue
                # 1/depth, unlike depth, is linear on the screen.
                nearness = u * az + v * bz + w * cz
                if nearness <= out_depth[y, x]:
                    continue
                # From here on linear on the surface, not on the screen.
                u, v = u * az / nearness, v * bz / nearness
                if use_cut and u * cut[a] + v * cut[b] + (1 - u - v) * cut[c] < 0:
                    continue
                out_depth[y, x] = nearness
                out_face[y, x] = first_face + f
                out_weights[y, x, 0] = u
                out_weights[y, x, 1] = v


def interpolate(
    seen: Visibility, pixels: np.ndarray, faces: np.ndarray, values: np.ndarray, *, first_face: int = 0
) -> np.ndarray:
    """Interpolate per-vertex values, float32 (V, C), at covered pixels (N,): float32 (N, C)."""
    out = np.empty((len(pixels), values.shape[1]), np.float32)
    _interpolate(pixels, seen.face, seen.weights, faces, first_face, values, out)
    return out


@_jit
def _interpolate(pixels, face, weights, faces, first_face, values, out):
    width = face.shape[1]
    for k in range(pixels.shape[0]):
        y, x = pixels[k] // width, pixels[k] % width
        f = face[y, x] - first_face
        u, v = weights[y, x, 0], weights[y, x, 1]
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        for i in range(values.shape[1]):
            out[k, i] = u * values[a, i] + v * values[b, i] + (1 - u - v) * values[c, i]


def label(
    seen: Visibility,
    pixels: np.ndarray,
    faces: np.ndarray,
    region_scores: np.ndarray,
    region_sides: np.ndarray,
    part_table: np.ndarray,
    out: np.ndarray,
    *,
    first_face: int = 0,
) -> None:
    """Write the part id of each covered pixel into `out` (H, W) uint8.

    The winner of the interpolated region_scores (V, R) picks the row of part_table (R, 2), the sign of the
    interpolated region_sides (V, R) its column.
    """
    _label(pixels, seen.face, seen.weights, faces, first_face, region_scores, region_sides, part_table, out)


@_jit
def _label(pixels, face, weights, faces, first_face, scores, sides, table, out):
    width = face.shape[1]
    for k in range(pixels.shape[0]):
        y, x = pixels[k] // width, pixels[k] % width
        f = face[y, x] - first_face
        u, v = weights[y, x, 0], weights[y, x, 1]
        w = 1 - u - v
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        best, winner = -1.0, 0
        for r in range(scores.shape[1]):
            score = u * scores[a, r] + v * scores[b, r] + w * scores[c, r]
            if score > best:
                best, winner = score, r
        side = u * sides[a, winner] + v * sides[b, winner] + w * sides[c, winner]
        out[y, x] = table[winner, 1 if side > 0 else 0]


@_jit
def vertex_normals(points, faces):
    """Area-weighted unit normals (V, 3) float32 of points (V, 3) float32 under faces (F, 3) int32."""
    out = np.zeros_like(points)
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        px, py, pz = points[b, 0] - points[a, 0], points[b, 1] - points[a, 1], points[b, 2] - points[a, 2]
        qx, qy, qz = points[c, 0] - points[a, 0], points[c, 1] - points[a, 1], points[c, 2] - points[a, 2]
        # Not normalized: its length is twice the area, the weight it is to have.
        nx, ny, nz = py * qz - pz * qy, pz * qx - px * qz, px * qy - py * qx
        for k in (a, b, c):
            out[k, 0] += nx
            out[k, 1] += ny
            out[k, 2] += nz
    for k in range(out.shape[0]):
        length = np.sqrt(out[k, 0] ** 2 + out[k, 1] ** 2 + out[k, 2] ** 2) + 1e-12
        for i in range(3):
            out[k, i] /= length
    return out

"""The outline of a mask as a polygon, as DAVIS-2016 uses it for temporal stability.

Outlines run along the edges between pixels. Where two foreground pixels touch only at a corner, four edges meet, and
the outlines turn there and do not cross, in the order in which the official code (J. Pont-Tuset's ``polycont``) visits
them. Polygons are simplified by the algorithm of Douglas and Peucker as in the library ``psimpl``, which rounds
projections to float32: with so many equal distances on a grid, the corners depend on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_FLAT = 0.05  # tolerances in pixels: first for edges in line, then for the polygon
_TOLERANCE = 1.5


@dataclass(frozen=True)
class _Curve:
    """A part of an outline, from junction to junction (0: none), or a closed outline.

    Attributes:
        points: Flat indices of pixel corners, both ends included.
        left: Whether the foreground is on the left of the way through `points`.
        ends: Number of the junctions at both ends.
    """

    points: list[int]
    left: bool
    ends: tuple[int, int] = (0, 0)

    def reverse(self) -> _Curve:
        return _Curve(self.points[::-1], not self.left, self.ends[::-1])


def outline(mask: np.ndarray) -> np.ndarray | None:
    """The outline with the most corners.

    Args:
        mask: (H, W) bool or uint8, nonzero is foreground.

    Returns:
        Corners as x and y in pixels, (N, 2) int32 with N > 3, the first equal to the last; around an object and around
        a hole in opposite directions. None if the mask is empty or all its parts are tiny.
    """
    filled = mask != 0
    rows, columns = (np.flatnonzero(filled.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return None
    curves, width = _curves(filled[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    origin = np.array([rows[0], columns[0]])
    best: np.ndarray | None = None
    for curve in curves:
        if best is not None and len(curve.points) < len(best):
            continue
        points = np.stack(np.divmod(curve.points, width), axis=1).astype(np.float64)
        polygon = _simplify(points)
        # Of outlines with as many corners the last one counts.
        if len(polygon) <= 3 or (best is not None and len(polygon) < len(best)):
            continue
        hole = (_turn(points, np.float64) > 0) == curve.left
        if (_turn(polygon + origin, np.float32) > 0) == hole:
            polygon = polygon[::-1]
        best = polygon
    if best is None:
        return None
    return (best + origin).astype(np.int32)[:, ::-1]


def _turn(points: np.ndarray, dtype: type) -> float:
    """Twice the signed area of a closed polygon of rows and columns, summed in a given type."""
    here, there = points[:-1], points[1:]
    terms = 4 * (there[:, 0] - here[:, 0]) * (there[:, 1] + here[:, 1])
    return float(np.cumsum(terms.astype(dtype), dtype=dtype)[-1])


def _curves(filled: np.ndarray) -> tuple[list[_Curve], int]:
    """All closed outlines of a mask (H, W) bool in the official order, and how many pixel corners a row has."""
    width = filled.shape[1] + 1
    padded = np.pad(filled, 1)
    # Edges from corner to corner with the foreground on the left; the vertical ones first, in the order of their rows.
    row, column = np.nonzero(padded[1:-1, 1:] != padded[1:-1, :-1])
    down = padded[1:-1, 1:][row, column]
    upper = row * width + column
    row, column = np.nonzero(padded[1:, 1:-1] != padded[:-1, 1:-1])
    west = padded[1:, 1:-1][row, column]
    vertical, left = len(upper), row * width + column
    start = np.concatenate([np.where(down, upper, upper + width), np.where(west, left + 1, left)])
    end = np.concatenate([np.where(down, upper + width, upper), np.where(west, left, left + 1)])

    order = np.argsort(start, kind="stable")
    sorted_start = start[order]
    twice = np.append(sorted_start[1:] == sorted_start[:-1], False)
    position = np.searchsorted(sorted_start, end)
    follows = np.where(twice[position], -1, order[position])  # -1: the edge ends at a junction
    precedes = np.full(len(start), -1)
    precedes[follows[follows >= 0]] = np.flatnonzero(follows >= 0)
    walk = _Walk(start.tolist(), end.tolist(), follows.tolist(), precedes.tolist(), bytearray(len(start)))
    junctions = sorted_start[twice]
    parts = walk.parts(junctions, np.flatnonzero(np.isin(start, junctions)), np.flatnonzero(follows < 0), width)
    loops = [walk.loop(edge) for edge in range(vertical) if not walk.seen[edge]]
    return [*reversed(loops), *_join(parts, junctions.tolist())], width


@dataclass(frozen=True)
class _Walk:
    """Edges with their corners and neighbours; `seen` marks those that are part of a curve."""

    start: list[int]
    end: list[int]
    follows: list[int]
    precedes: list[int]
    seen: bytearray

    def loop(self, edge: int) -> _Curve:
        """The closed outline of an edge that is its first vertical one, down from the upper end of that edge."""
        points = []
        first = edge
        while not self.seen[edge]:
            self.seen[edge] = 1
            points.append(self.start[edge])
            edge = self.follows[edge]
        if self.start[first] < self.end[first]:
            return _Curve([*points, points[0]], True)
        return _Curve([*points[1:], points[0], points[1]], True).reverse()

    def parts(self, junctions: np.ndarray, leaving: np.ndarray, arriving: np.ndarray, width: int) -> list[_Curve]:
        """The parts of outlines between junctions, from the last junction on."""
        numbers = {corner: number for number, corner in enumerate(junctions.tolist(), 1)}
        edges = {(self.start[edge], self.end[edge]): (edge, True) for edge in leaving.tolist()}
        edges.update({(self.end[edge], self.start[edge]): (edge, False) for edge in arriving.tolist()})
        parts = []
        for corner in reversed(numbers):
            for neighbour in (corner - width, corner - 1, corner + width, corner + 1):
                edge, forward = edges[corner, neighbour]
                if self.seen[edge]:
                    continue
                to, onward = (self.end, self.follows) if forward else (self.start, self.precedes)
                points = [corner]
                while edge >= 0:
                    self.seen[edge] = 1
                    points.append(to[edge])
                    edge = onward[edge]
                parts.append(_Curve(points, forward, (numbers[corner], numbers[points[-1]])))
        return parts


def _join(parts: list[_Curve], corners: list[int]) -> list[_Curve]:
    """Join parts to closed outlines that do not cross themselves: turn at each junction, cut off each closed loop."""
    at: dict[int, set[int]] = {junction: set() for junction in range(1, len(corners) + 1)}
    for number, part in enumerate(parts):
        for junction in part.ends:
            at[junction].add(number)

    def neighbour(number: int, junction: int) -> int:
        """The corner next to a junction on a part."""
        part = parts[number]
        return part.points[1] if part.ends[0] == junction else part.points[-2]

    closed = []
    for first in reversed(at):
        while at[first]:
            junction, number = first, min(at[first])
            way: list[tuple[int, int]] = []
            while True:
                way.append((junction, number))
                ends = parts[number].ends
                for reached in ends:
                    at[reached].discard(number)
                junction = ends[1] if junction == ends[0] else ends[0]
                passed = [known for known, _ in way]
                if junction in passed:
                    since = passed.index(junction)
                    closed.append(_chain([(parts[part], origin) for origin, part in way[since:]]))
                    del way[since:]
                    if not way:
                        break
                    number = way[-1][1]
                candidates = sorted(at[junction])
                # The corners before and behind are opposite each other.
                ahead = neighbour(candidates[0], junction) + neighbour(number, junction) == 2 * corners[junction - 1]
                number = candidates[1] if ahead else candidates[0]
    return closed


def _chain(parts: list[tuple[_Curve, int]]) -> _Curve:
    """Connect parts, each given with the junction it starts from, to one curve."""
    turned = [part if part.ends[0] == origin else part.reverse() for part, origin in parts]
    return _Curve([turned[0].points[0], *(point for part in turned for point in part.points[1:])], turned[0].left)


def _simplify(points: np.ndarray) -> np.ndarray:
    """Corners of a polygon with at most `_TOLERANCE` pixels between the two, first and last point kept."""
    points = points[_corners(points, _FLAT)]
    if len(points) < 3:
        return points
    first, *inner, last = points.tolist()
    kept = [first]
    for point in inner:  # drop points that are too close to the previous one
        if (point[0] - kept[-1][0]) ** 2 + (point[1] - kept[-1][1]) ** 2 >= _TOLERANCE**2:
            kept.append(point)
    points = np.array([*kept, last])
    return points[_corners(points, _TOLERANCE)]


def _corners(points: np.ndarray, tolerance: float) -> np.ndarray:
    """Douglas-Peucker: split each chord at the last of the farthest points while it is farther than a tolerance.

    All chords of one depth are split at once.

    Args:
        points: (N, 2) float64.
        tolerance: In the unit of the points.

    Returns:
        Which points to keep, (N,) bool.
    """
    keep = np.zeros(len(points), bool)
    keep[[0, -1]] = True
    low, high = np.array([0]), np.array([len(points) - 1])
    while True:
        split = high - low > 1
        low, high = low[split], high[split]
        if not low.size:
            return keep
        counts = high - low - 1
        firsts = np.cumsum(counts) - counts
        chord = np.repeat(np.arange(len(low)), counts)
        index = np.arange(len(chord)) + (low + 1 - firsts)[chord]
        distances = _to_segment(points[index], points[low][chord], points[high][chord])
        farthest = np.maximum.reduceat(distances, firsts)
        ties = np.flatnonzero(distances == farthest[chord])
        key = np.zeros(len(low), np.int64)
        np.maximum.at(key, chord[ties], index[ties])
        split = farthest > tolerance * tolerance
        low, high, key = low[split], high[split], key[split]
        keep[key] = True
        low, high = np.concatenate([low, key]), np.concatenate([key, high])


def _to_segment(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Squared distance of points to segments, all (N, 2); the place on the segment is rounded to float32."""
    along, offset = end - start, points - start
    length = along[:, 0] * along[:, 0] + along[:, 1] * along[:, 1]
    projection = offset[:, 0] * along[:, 0] + offset[:, 1] * along[:, 1]
    place = projection.astype(np.float32) / np.maximum(length, 1).astype(np.float32)
    nearest = start + place[:, None].astype(np.float64) * along
    nearest = np.where((projection >= length)[:, None], end, nearest)
    nearest = np.where((projection <= 0)[:, None], start, nearest)
    distance = points - nearest
    return distance[:, 0] * distance[:, 0] + distance[:, 1] * distance[:, 1]

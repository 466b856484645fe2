// A drawn curve as text, "progress:height, …", and the moves a hand can make. The rules are those of spacing.Drawn in Python.

export const GAP = 0.001; // least distance of two points, in progress and in height
export const MOST = 64;

// [[progress, height], …]; null where the text is no curve
export function parse(text) {
  const points = String(text).replaceAll(";", ",").split(",").map((word) => {
    const parts = word.split(":");
    return parts.length === 2 && parts.every((p) => p.trim() !== "") ? parts.map(Number) : [NaN, NaN];
  });
  const inside = points.every(([u, v]) => u >= 0 && u <= 1 && v >= 0 && v <= 1);
  const falling = points.every(([u, v], i) => i === 0 || (u > points[i - 1][0] && v < points[i - 1][1]));
  const ends = points.length >= 2 && points.length <= MOST && points[0][0] === 0 && points.at(-1)[0] === 1;
  return inside && falling && ends ? points : null;
}

export const format = (points) => points.map((p) => p.map((x) => Number(x.toFixed(3))).join(":")).join(", ");

const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
const tidy = (x) => Number(x.toFixed(3));

// point i moved to (u, v), kept between its neighbours; the ends keep their progress
export function move(points, i, u, v) {
  const last = points.length - 1, before = points[i - 1], after = points[i + 1];
  const progress = i === 0 ? 0 : i === last ? 1 : clamp(tidy(u), before[0] + GAP, after[0] - GAP);
  const height = clamp(tidy(v), after ? after[1] + GAP : 0, before ? before[1] - GAP : 1);
  return points.map((p, j) => (j === i ? [tidy(progress), tidy(height)] : p));
}

// a point more, at progress u and near height v; the points unchanged where there is no room
export function insert(points, u, v) {
  const i = points.findIndex((p) => p[0] > u), room = i > 0 && points.length < MOST;
  if (!room || points[i][0] - points[i - 1][0] < 2 * GAP || points[i - 1][1] - points[i][1] < 2 * GAP) return points;
  return move(points.toSpliced(i, 0, [u, v]), i, u, v);
}

// without point i; the ends stay
export const remove = (points, i) => (i > 0 && i < points.length - 1 ? points.toSpliced(i, 1) : points);

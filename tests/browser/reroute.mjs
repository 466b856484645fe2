// Links around nodes: points (LiteGraph's reroutes) for links that would run behind a node that is not theirs. Pure functions.
import { crossable, crossingsWith, curve, within } from "./layout.mjs";

const BEYOND = 28, CLEAR = 10, BEND = 60, MOST_BOUND = 80; // of a corridor beside and above a node; what a bend costs; LiteGraph's longest pull
const MOST_POINTS = 11, MOST_VIA = 6; // to choose from, and of a link
const STEPS = 12; // points of a segment

const far = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);
const toward = (a, b) => Math.atan2(b[1] - a[1], b[0] - a[0]);

function spline(a, b, pullA, pullB) {
  const made = [];
  for (let i = 0; i <= STEPS; i++) {
    const t = i / STEPS, s = 1 - t, w = [s * s * s, 3 * s * s * t, 3 * s * t * t, t * t * t];
    made.push([0, 1].map((k) => w[0] * a[k] + w[1] * (a[k] + pullA[k]) + w[2] * (b[k] + pullB[k]) + w[3] * b[k]));
  }
  return made;
}

// the curve that LiteGraph draws from an output through points to an input: [[x, y], …]
export function through(from, via, to) {
  if (!via.length) return curve(from, to, 24);
  const made = [];
  let before = from, pull = [far(from, via[0]) / 4, 0];
  via.forEach((point, i) => {
    const next = via[i + 1] ?? to, comes = toward(before, point);
    let half = (comes - toward(point, next)) / 2;
    if (Math.abs(half) > Math.PI / 2) half += Math.PI;
    const turn = [Math.cos(comes - half), Math.sin(comes - half)], back = Math.min(MOST_BOUND, far(before, point) / 4), on = Math.min(MOST_BOUND, far(point, next) / 4);
    made.push(...spline(before, point, pull, [-back * turn[0], -back * turn[1]]));
    [before, pull] = [point, [on * turn[0], on * turn[1]]];
  });
  made.push(...spline(before, to, pull, [-far(before, to) / 4, 0]));
  return made;
}

// The corners of the shortest way of level and upright pieces between two points past all boxes; null where there is none.
function corners(from, to, boxes) {
  const all = Object.values(boxes), sorted = (list) => [...new Set(list.map(Math.round))].sort((a, b) => a - b);
  const start = [from[0] + BEYOND, from[1]], end = [to[0] - BEYOND, to[1]];
  const xs = sorted([start[0], end[0], ...all.flatMap((b) => [b[0] - BEYOND, b[0] + b[2] + BEYOND])]), ys = sorted([start[1], end[1], ...all.flatMap((b) => [b[1] - CLEAR, b[1] + b[3] + CLEAR])]);
  const at = (i, j) => [xs[i], ys[j]], key = (i, j, d) => (i * ys.length + j) * 2 + d;
  const free = ([x, y], [u, v]) => all.every((b) => Math.max(x, u) <= b[0] - 3 || Math.min(x, u) >= b[0] + b[2] + 3 || Math.max(y, v) <= b[1] - 3 || Math.min(y, v) >= b[1] + b[3] + 3);
  const goal = [xs.indexOf(Math.round(end[0])), ys.indexOf(Math.round(end[1]))], first = [xs.indexOf(Math.round(start[0])), ys.indexOf(Math.round(start[1]))];
  const cost = new Map(), came = new Map(), open = [];
  const push = (i, j, d, c, from_) => {
    const k = key(i, j, d);
    if (c >= (cost.get(k) ?? Infinity)) return;
    cost.set(k, c);
    came.set(k, from_);
    open.push([c + far(at(i, j), at(...goal)), i, j, d]);
  };
  push(...first, 0, 0, null);
  while (open.length) {
    let best = 0;
    for (let n = 1; n < open.length; n++) if (open[n][0] < open[best][0]) best = n;
    const [, i, j, d] = open.splice(best, 1)[0], c = cost.get(key(i, j, d));
    if (i === goal[0] && j === goal[1]) return traced(came, key(i, j, d), (k) => at(Math.floor(k / 2 / ys.length), Math.floor(k / 2) % ys.length));
    for (const [p, q, e] of [[i - 1, j, 0], [i + 1, j, 0], [i, j - 1, 1], [i, j + 1, 1]]) {
      if (p < 0 || q < 0 || p >= xs.length || q >= ys.length || !free(at(i, j), at(p, q))) continue;
      push(p, q, e, c + far(at(i, j), at(p, q)) * (e === 0 && p < i ? 2 : 1) + (e === d ? 0 : BEND), key(i, j, d));
    }
  }
  return null;
}

function traced(came, last, place) {
  const way = [];
  for (let k = last; k !== null && k !== undefined; k = came.get(k)) way.unshift(place(k));
  return way.filter((p, i) => i === 0 || i === way.length - 1 || (way[i - 1][0] - p[0]) * (way[i + 1][1] - p[1]) !== (way[i + 1][0] - p[0]) * (way[i - 1][1] - p[1]));
}

// Points to go through: corners, and on long level pieces two that keep the line level. Every choice among them, few first.
function choices(way) {
  const all = way.flatMap((p, i) => {
    const next = way[i + 1], long = next && next[1] === p[1] && next[0] - p[0] > 3 * BEYOND;
    return long ? [p, [p[0] + BEYOND, p[1]], [next[0] - BEYOND, p[1]]] : [p];
  }).slice(0, MOST_POINTS);
  const lists = Array.from({ length: 2 ** all.length - 1 }, (_, bits) => all.filter((_, i) => ((bits + 1) >> i) & 1));
  return lists.filter((list) => list.length <= MOST_VIA).sort((p, q) => p.length - q.length);
}

// the path of a link in each renderer
export const paths = ({ ends, via }) => ends.map(([from, to]) => through(from, via, to));

const hiddenBy = (link, paths, boxes) => Math.max(...paths.map((path) => Object.entries(boxes).filter(([id, box]) => id !== link.from && id !== link.to && path.some((p) => within(box, p, -4))).length));

// links: [{from, to, out, ends: [[start, end] in each renderer], via, paths}]: those behind a node get points where that leaves
// fewer faults. Returns how many did.
export function reroute(links, boxes) {
  let changed = 0;
  for (const link of links) {
    const hidden = hiddenBy(link, link.paths, boxes);
    if (!hidden) continue;
    const way = corners(...link.ends[0], boxes);
    if (!way) continue;
    const others = link.paths.map((_, k) => crossable(links.filter((l) => l !== link && l.out !== link.out).map((l) => l.paths[k])));
    const badness = (made, behind, points) => 40 * behind + 3 * Math.max(...made.map((path, k) => crossingsWith(path, others[k]))) + points;
    let best = null, least = badness(link.paths, hidden, link.via.length), clear = hidden - 1; // behind fewer nodes than so far, or as few with fewer crossings
    for (const via of choices(way)) {
      const made = paths({ ends: link.ends, via }), behind = hiddenBy(link, made, boxes), now = behind <= clear ? badness(made, behind, via.length) : Infinity;
      if (now < least) [best, least, clear] = [{ via, paths: made }, now, behind];
    }
    if (best) changed++;
    Object.assign(link, best);
  }
  return changed;
}

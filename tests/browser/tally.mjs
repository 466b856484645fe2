// The same count as `faults` of layout.mjs, of fewer points and fast, for a search that asks it tens of thousands of times.
const POINTS = 9, THIN = 3; // of a link's curve; every third makes the pieces that cross
const WEIGHTS = Array.from({ length: POINTS + 1 }, (_, i) => { const t = i / POINTS, s = 1 - t; return [s * s * s, 3 * s * s * t, 3 * s * t * t, t * t * t]; });

// links: [[from, output, to, input]] with numbers of nodes. Returns (ends, boxes) => [crossings, links behind a node]; ends: [x0, y0, x1, y1,
// …] of every link, boxes: [x, y, w, h, …] of every node, and of what else is in the way.
export function tally(links) {
  const size = 2 * (POINTS + 1), at = new Float64Array(links.length * size), span = new Float64Array(links.length * 4);
  const outs = links.map(([from, out]) => from * 1000 + out);

  function draw(i, ends) {
    const x0 = ends[4 * i], y0 = ends[4 * i + 1], x1 = ends[4 * i + 2], y1 = ends[4 * i + 3], pull = Math.hypot(x1 - x0, y1 - y0) / 4;
    let left = Infinity, right = -Infinity;
    for (let k = 0; k <= POINTS; k++) {
      const [a, b, c, d] = WEIGHTS[k], x = a * x0 + b * (x0 + pull) + c * (x1 - pull) + d * x1;
      at[i * size + 2 * k] = x;
      at[i * size + 2 * k + 1] = (a + b) * y0 + (c + d) * y1;
      if (x < left) left = x;
      if (x > right) right = x;
    }
    span[4 * i] = left;
    span[4 * i + 1] = Math.min(y0, y1);
    span[4 * i + 2] = right;
    span[4 * i + 3] = Math.max(y0, y1);
  }

  function cross(i, j) {
    for (let p = i * size; p < (i + 1) * size - 2; p += 2 * THIN) {
      const ax = at[p], ay = at[p + 1], bx = at[p + 2 * THIN] - ax, by = at[p + 2 * THIN + 1] - ay;
      for (let q = j * size; q < (j + 1) * size - 2; q += 2 * THIN) {
        const cx = at[q], cy = at[q + 1], ex = at[q + 2 * THIN], ey = at[q + 2 * THIN + 1], dx = ex - cx, dy = ey - cy;
        if ((bx * (cy - ay) - by * (cx - ax)) * (bx * (ey - ay) - by * (ex - ax)) >= 0) continue;
        if ((dx * (ay - cy) - dy * (ax - cx)) * (dx * (ay + by - cy) - dy * (ax + bx - cx)) < 0) return true;
      }
    }
    return false;
  }

  function inBox(i, x, y, w, h) {
    for (let p = i * size; p < (i + 1) * size; p += 2) if (at[p] > x && at[p] < x + w && at[p + 1] > y && at[p + 1] < y + h) return true;
    return false;
  }

  return (ends, boxes) => {
    let crossings = 0, behind = 0;
    for (let i = 0; i < links.length; i++) draw(i, ends);
    for (let i = 0; i < links.length; i++) {
      const left = span[4 * i], top = span[4 * i + 1], right = span[4 * i + 2], bottom = span[4 * i + 3];
      for (let j = i + 1; j < links.length; j++)
        if (outs[i] !== outs[j] && left <= span[4 * j + 2] && span[4 * j] <= right && top <= span[4 * j + 3] && span[4 * j + 1] <= bottom && cross(i, j)) crossings++;
      for (let k = 0; 4 * k < boxes.length; k++) {
        if (k === links[i][0] || k === links[i][2]) continue;
        const x = boxes[4 * k], y = boxes[4 * k + 1], w = boxes[4 * k + 2], h = boxes[4 * k + 3];
        if (x <= right && x + w >= left && y <= bottom && y + h >= top && inBox(i, x + 2, y + 2, w - 4, h - 4)) behind++;
      }
    }
    return [crossings, behind];
  };
}

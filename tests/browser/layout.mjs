// Where the nodes of a graph go: columns from left to right, found by annealing, so that links cross little and run behind no
// foreign node. Pure functions; the same graph gets the same places.

export const MOST_WIDE = 2000, MOST_HIGH = 1250;
export const BARS = { crossings: 10, behind: 0, wide: MOST_WIDE, high: MOST_HIGH };
const COLUMN_GAP = 56, TITLE = 30, ROW_GAP = 20;
const GAPS = [0, 0, 0, 40, 90, 160];
const POINTS = 12; // of a link's curve while places are looked for

// a number generator that starts the same
function random(seed) {
  let s = seed >>> 0;
  return () => {
    s = (s + 0x6d2b79f5) >>> 0;
    let t = Math.imul(s ^ (s >>> 15), 1 | s);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

// the curve that LiteGraph draws between two slots: [[x, y], …]
export function curve([x0, y0], [x1, y1], points = POINTS) {
  const pull = Math.hypot(x1 - x0, y1 - y0) / 4, made = [];
  for (let i = 0; i <= points; i++) {
    const t = i / points, s = 1 - t, a = s * s * s, b = 3 * s * s * t, c = 3 * s * t * t, d = t * t * t;
    made.push([a * x0 + b * (x0 + pull) + c * (x1 - pull) + d * x1, a * y0 + b * y0 + c * y1 + d * y1]);
  }
  return made;
}

const side = (a, b, p) => (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0]);
const meet = (a, b, c, d) => side(a, b, c) * side(a, b, d) < 0 && side(c, d, a) * side(c, d, b) < 0;

function cross(p, q) {
  for (let i = 1; i < p.length; i++) for (let j = 1; j < q.length; j++) if (meet(p[i - 1], p[i], q[j - 1], q[j])) return true;
  return false;
}

export const within = (box, [x, y], margin = 0) => x > box[0] - margin && x < box[0] + box[2] + margin && y > box[1] - margin && y < box[1] + box[3] + margin;

// links: [{from, to, path}], boxes: {id: [x, y, w, h]}: how many pairs cross (those of one output do not count), and which links
// run behind a node that is not theirs
export function faults(links, boxes) {
  let crossings = 0;
  const thin = links.map(({ path }) => path.filter((_, i) => i % 3 === 0 || i === path.length - 1));
  const spans = links.map(({ path }) => [0, 1].flatMap((k) => { const all = path.map((p) => p[k]); return [Math.min(...all), Math.max(...all)]; }));
  for (let i = 0; i < links.length; i++)
    for (let j = i + 1; j < links.length; j++) {
      const a = spans[i], b = spans[j];
      if (links[i].out === links[j].out || a[1] < b[0] || b[1] < a[0] || a[3] < b[2] || b[3] < a[2]) continue;
      if (cross(thin[i], thin[j])) crossings++;
    }
  const behind = [];
  const all = Object.entries(boxes);
  links.forEach((link, i) => {
    const [left, right, top, bottom] = spans[i], from = String(link.from), to = String(link.to);
    for (const [id, box] of all) {
      if (id === from || id === to || box[0] > right || box[0] + box[2] < left || box[1] > bottom || box[1] + box[3] < top) continue;
      if (link.path.some((p) => within(box, p, -4))) behind.push([link, id]);
    }
  });
  return { crossings, behind };
}

// nodes: {id: {w, h (with its title), ins: [y], outs: [y]}} (y from below the title), links: [[from, output, to, input]],
// note: [w, h] or null → {id: [x, y, w, h]} of their boxes with titles, and what is left of faults. Nodes are as wide as their
// column, so that a link runs behind no neighbour above or below where it leaves or arrives.
export function place(nodes, links, { note = null, seed = 1, rounds = 60_000, columns = null, hidden = 25 } = {}) {
  const ids = Object.keys(nodes), rand = random(seed), pick = (list) => list[Math.floor(rand() * list.length)];
  const depth = {}, sources = Object.fromEntries(ids.map((id) => [id, links.filter((l) => String(l[2]) === id).map((l) => String(l[0]))]));
  const deep = (id) => (depth[id] ??= 1 + Math.max(-1, ...sources[id].map(deep)));
  ids.forEach(deep);
  const last = Math.max(...Object.values(depth)), K = columns ?? Math.min(last + 1, 7);
  // sources stand right before what they lead to
  const targets = (id) => links.filter((l) => String(l[0]) === id).map((l) => String(l[2]));
  for (const id of [...ids].sort((a, b) => depth[b] - depth[a])) if (targets(id).length) depth[id] = Math.max(depth[id], Math.min(...targets(id).map((t) => depth[t])) - 1);
  let state = { cols: Array.from({ length: K }, () => []), gap: {} };
  for (const id of ids) state.cols[Math.min(K - 1, Math.round(depth[id] * (K - 1) / Math.max(1, last)))].push(id);
  for (const id of ids) state.gap[id] = 0;

  function layout({ cols, gap }) {
    const at = {}, col = {};
    let x = 0, high = 0;
    cols.forEach((column, k) => {
      const wide = Math.max(k === 0 && note ? note[0] : 0, ...column.map((id) => nodes[id].w));
      let y = k === 0 && note ? note[1] + TITLE + ROW_GAP : 0;
      for (const id of column) {
        y += gap[id];
        at[id] = [x, y, wide, nodes[id].h];
        col[id] = k;
        y += nodes[id].h + ROW_GAP;
      }
      high = Math.max(high, y - ROW_GAP);
      if (wide) x += wide + COLUMN_GAP;
    });
    return { at, col, wide: x - COLUMN_GAP, high };
  }
  const drawn = ({ at }, points) => links.map(([from, out, to, input]) => {
    const a = at[from], b = at[to];
    return { from, to, out: `${from}:${out}`, path: curve([a[0] + a[2], a[1] + TITLE + nodes[from].outs[out]], [b[0], b[1] + TITLE + nodes[to].ins[input]], points) };
  });
  const boxes = (made) => (note ? { ...made.at, note: [0, 0, ...note] } : made.at);
  function cost(s) {
    const made = layout(s), paths = drawn(made), { crossings, behind } = faults(paths, boxes(made));
    let sum = 10 * Math.max(0, crossings - 8) + crossings * 3 + behind.length * hidden; // `hidden`: what a link behind a node costs
    for (const { path } of paths) sum += Math.hypot(path[0][0] - path.at(-1)[0], path[0][1] - path.at(-1)[1]) * 0.008;
    for (const [from, , to] of links) if (made.col[to] <= made.col[from]) sum += 25 + 10 * (made.col[from] - made.col[to]);
    return sum + Math.max(0, made.wide - MOST_WIDE) * 0.5 + Math.max(0, made.high - MOST_HIGH) * 0.5 + made.high * 0.01;
  }
  const copied = (s) => ({ cols: s.cols.map((c) => [...c]), gap: { ...s.gap } });
  let now = cost(state), best = state, least = now;
  for (let i = 0; i < rounds; i++) {
    const next = copied(state), heat = 30 * (1 - i / rounds) ** 2 + 0.05, id = pick(ids), dice = rand();
    const from = next.cols.findIndex((c) => c.includes(id)), row = next.cols[from].indexOf(id);
    if (dice < 0.3) next.gap[id] = pick(GAPS);
    else if (dice < 0.65 && next.cols[from].length > 1) {
      next.cols[from].splice(row, 1);
      next.cols[from].splice(Math.floor(rand() * (next.cols[from].length + 1)), 0, id);
    } else {
      const to = rand() < 0.3 ? Math.floor(rand() * K) : Math.min(K - 1, Math.max(0, from + (rand() < 0.5 ? -1 : 1)));
      next.cols[from].splice(row, 1);
      next.cols[to].splice(Math.floor(rand() * (next.cols[to].length + 1)), 0, id);
    }
    const then = cost(next);
    if (then < now || rand() < Math.exp((now - then) / heat)) {
      [state, now] = [next, then];
      if (now < least) [best, least] = [state, now];
    }
  }
  const made = layout(best), { crossings, behind } = faults(drawn(made, 24), boxes(made));
  return { at: made.at, wide: made.wide, high: made.high, crossings, behind: behind.map(([l, id]) => `${l.from}→${l.to} behind ${id}`), cost: least };
}

// The best of some tries, the first without a fault that the bars name. As `place`.
export function placed(nodes, links, { note = null, tries = 12, rounds = 14_000 } = {}) {
  let best = null;
  for (let i = 0; i < tries; i++) {
    const one = place(nodes, links, { note, rounds: rounds * (1 + Math.floor(i / 4)), seed: i + 1, columns: [7, 6, 5, 8][i % 4] });
    if (!best || one.cost < best.cost) best = one;
    if (!best.behind.length && best.crossings <= BARS.crossings && best.wide <= MOST_WIDE && best.high <= MOST_HIGH) break;
  }
  return best;
}

const REPEATED = /^(SamplingKitGuider|SamplerCustomAdvanced|SamplingKitLatentToImage|VAEDecode)$/;

// The nodes that a template repeats for every run it compares: those go into one subgraph. nodes: {id: type}, links as above.
// Empty where there is one run. What lies between two of them comes along, or the subgraph would lead to itself.
export function repeated(types, links) {
  const of = (type) => Object.keys(types).filter((id) => type.test(types[id]));
  if (of(/^SamplerCustomAdvanced$/).length < 2) return [];
  const chosen = new Set(of(REPEATED)), next = (ids, a, b) => {
    const seen = new Set(), open = [...ids];
    while (open.length) {
      const at = open.pop();
      for (const l of links) if (String(l[a]) === at && !seen.has(String(l[b]))) { seen.add(String(l[b])); open.push(String(l[b])); }
    }
    return seen;
  };
  const after = next(chosen, 0, 2), before = next(chosen, 2, 0);
  return Object.keys(types).filter((id) => chosen.has(id) || (after.has(id) && before.has(id)));
}

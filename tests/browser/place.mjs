// Where the nodes of a graph go: columns from left to right, found by annealing, so that links cross little and run behind no
// foreign node. Pure functions; the same graph and seed get the same places.
import { BARS, TITLE } from "./layout.mjs";
import { tally } from "./tally.mjs";

const COLUMN_GAP = 64, ROW_GAP = 24, GAPS = [0, 0, 0, 40, 90, 160];
const BACK = 60, CROSSING = 3, MANY = 10, LENGTH = 0.008; // what a link to the left costs, a crossing, one of many, a unit of a link

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

// columns by the longest way from a source; sources stand right before what they lead to
function begin(count, links, columns) {
  const depth = [], deep = (n) => (depth[n] ??= 1 + Math.max(-1, ...links.filter((l) => l[2] === n).map((l) => deep(l[0]))));
  const all = Array.from({ length: count }, (_, n) => n);
  all.forEach(deep);
  const last = Math.max(...depth), K = columns ?? Math.min(last + 1, 7), targets = (n) => links.filter((l) => l[0] === n).map((l) => l[2]);
  for (const n of [...all].sort((a, b) => depth[b] - depth[a])) if (targets(n).length) depth[n] = Math.max(depth[n], Math.min(...targets(n).map((t) => depth[t])) - 1);
  const cols = Array.from({ length: K }, () => []);
  for (const n of all) cols[Math.min(K - 1, Math.round(depth[n] * (K - 1) / Math.max(1, last)))].push(n);
  return { cols, gap: all.map(() => 0), outs: links.map((l) => l[1]), ins: links.map((l) => l[3]) };
}

// boxes [x, y, w, h, …] of a state, the last one the note's, the column of each node, and the size of all. Nodes are as wide as their
// column, so that a link runs behind no neighbour above or below where it leaves or arrives.
function layout({ cols, gap }, nodes, note) {
  const boxes = new Float64Array(4 * (nodes.length + (note ? 1 : 0))), col = [];
  let x = 0, high = 0;
  cols.forEach((column, k) => {
    let wide = k === 0 && note ? note[0] : 0, y = k === 0 && note ? note[1] + ROW_GAP : 0;
    for (const n of column) if (nodes[n].w > wide) wide = nodes[n].w;
    for (const n of column) {
      y += gap[n];
      boxes.set([x, y, wide, nodes[n].h], 4 * n);
      col[n] = k;
      y += nodes[n].h + ROW_GAP;
    }
    high = Math.max(high, y - ROW_GAP);
    if (wide) x += wide + COLUMN_GAP;
  });
  if (note) boxes.set([0, 0, ...note], 4 * nodes.length);
  return { boxes, col, wide: x - COLUMN_GAP, high };
}

function pricer(nodes, links, note, hidden) {
  const count = tally(links), ends = new Float64Array(4 * links.length);
  return (state) => {
    const { boxes, col, wide, high } = layout(state, nodes, note);
    let sum = 0;
    links.forEach(([from, , to], i) => {
      const out = state.outs[i], input = state.ins[i], x0 = boxes[4 * from] + boxes[4 * from + 2], y0 = boxes[4 * from + 1] + TITLE + nodes[from].outs[out], x1 = boxes[4 * to], y1 = boxes[4 * to + 1] + TITLE + nodes[to].ins[input];
      ends[4 * i] = x0;
      ends[4 * i + 1] = y0;
      ends[4 * i + 2] = x1;
      ends[4 * i + 3] = y1;
      sum += Math.hypot(x1 - x0, y1 - y0) * LENGTH;
      if (col[to] <= col[from]) sum += BACK + 20 * (col[from] - col[to]);
    });
    const [crossings, behind] = count(ends, boxes);
    sum += MANY * Math.max(0, crossings - 8) + CROSSING * crossings + behind * hidden;
    return sum + Math.max(0, wide - BARS.wide) + Math.max(0, high - BARS.high) + high * 0.01;
  };
}

// two slots of a node change places: those of a subgraph stand in any order. links: of such nodes, by node and side
function swapped(state, free, rand) {
  const { name, of } = free[Math.floor(rand() * free.length)], a = Math.floor(rand() * of.length), b = Math.floor(rand() * of.length), slots = state[name].slice();
  const [at, to] = [slots[of[a]], slots[of[b]]];
  for (const i of of) slots[i] = slots[i] === at ? to : slots[i] === to ? at : slots[i];
  return { ...state, [name]: slots };
}

// another state: a node with another gap above it, at another row, in another column, or in another's place
function moved(state, rand) {
  const next = { ...state, cols: state.cols.map((c) => c.slice()), gap: state.gap.slice() }, K = next.cols.length, pick = (list) => list[Math.floor(rand() * list.length)];
  const n = Math.floor(rand() * next.gap.length), from = next.cols.findIndex((c) => c.includes(n)), row = next.cols[from].indexOf(n), dice = rand();
  const into = (column) => column.splice(Math.floor(rand() * (column.length + 1)), 0, n);
  if (dice < 0.3) next.gap[n] = pick(GAPS);
  else if (dice < 0.4) {
    const other = Math.floor(rand() * next.gap.length), to = next.cols.findIndex((c) => c.includes(other)), at = next.cols[to].indexOf(other);
    next.cols[from][row] = other;
    next.cols[to][at] = n;
  } else if (dice < 0.7 && next.cols[from].length > 1) {
    next.cols[from].splice(row, 1);
    into(next.cols[from]);
  } else {
    const to = rand() < 0.3 ? Math.floor(rand() * K) : Math.min(K - 1, Math.max(0, from + (rand() < 0.5 ? -1 : 1)));
    next.cols[from].splice(row, 1);
    into(next.cols[to]);
  }
  return next;
}

// the links at the nodes whose slots may change places: [{name: "ins" or "outs", of: [number of a link]}]
function freeOf(links, list) {
  const sides = list.flatMap((node, n) => (node.free ? [["ins", 2], ["outs", 0]].map(([name, k]) => ({ name, of: links.flatMap((l, i) => (l[k] === n ? [i] : [])) })) : []));
  return sides.filter(({ of }) => of.length > 1);
}

// nodes: {id: {w, h (with its title), ins: [y], outs: [y], free: whether its slots may change places}} (y from below the title),
// links: [[from, output, to, input]], note: [w, h] (with its title) or null, hidden: what a link behind a node costs →
// at: {id: [x, y, w, h]}, boxes with titles; links: with their slots then; wide: of all.
export function place(nodes, links, { note = null, seed = 1, rounds = 60_000, columns = null, hidden = 25 } = {}) {
  const ids = Object.keys(nodes), list = ids.map((id) => nodes[id]), rand = random(seed);
  const numbered = links.map(([from, out, to, input]) => [ids.indexOf(String(from)), out, ids.indexOf(String(to)), input]), price = pricer(list, numbered, note, hidden);
  const free = freeOf(numbered, list);
  let state = begin(ids.length, numbered, columns), now = price(state), best = state, least = now;
  for (let i = 0; i < rounds; i++) {
    const heat = 30 * (1 - i / rounds) ** 2 + 0.05, next = free.length && rand() < 0.25 ? swapped(state, free, rand) : moved(state, rand), then = price(next);
    if (then < now || rand() < Math.exp((now - then) / heat)) {
      [state, now] = [next, then];
      if (now < least) [best, least] = [state, now];
    }
  }
  const { boxes, wide } = layout(best, list, note);
  return { at: Object.fromEntries(ids.map((id, n) => [id, [...boxes.slice(4 * n, 4 * n + 4)]])), links: links.map(([from, , to], i) => [from, best.outs[i], to, best.ins[i]]), wide };
}

// Places for the nodes of a saved template and points for its links, so that it is well read in both renderers. Pure functions.
// sizes: {id: {w, h, faces: [{ins: [y], outs: [y], inset: [of inputs, of outputs]}, …]}}: the larger of what the renderers draw, without the
// title, and where each has the slots, how far inside the node. The note's is there too.
import { BARS, TITLE, faults } from "./layout.mjs";
import { place } from "./place.mjs";
import { paths, reroute } from "./reroute.mjs";

const NOTE = "MarkdownNote", FEWEST = [7, 6, 5, 8]; // columns, by turns

const middle = (faces, name) => faces[0][name].map((_, i) => faces.reduce((sum, face) => sum + face[name][i], 0) / faces.length);
const outerLinks = (ui) => ui.links.map(([, from, out, to, input]) => [String(from), out, String(to), input]);
const innerLinks = (of) => of.links.filter((l) => l.origin_id > 0 && l.target_id > 0).map((l) => [String(l.origin_id), l.origin_slot, String(l.target_id), l.target_slot]);

const nodesFor = (list, sizes, inside = new Set()) => Object.fromEntries(list.filter((n) => n.type !== NOTE).map((n) => {
  const { w, h, faces } = sizes[n.id];
  return [n.id, { w, h: h + TITLE, ins: middle(faces, "ins"), outs: middle(faces, "outs"), free: inside.has(n.type) }];
}));

function put(list, at, sizes) {
  for (const n of list) {
    const [x, y, w] = at[n.id] ?? [0, 0, sizes[n.id].w];
    n.pos = [Math.round(x), Math.round(y) + TITLE];
    n.size = [w, Math.ceil(sizes[n.id].h)];
  }
}

// the links of a graph whose nodes stand at `at`: ends and path in each renderer
function drawn(links, at, sizes, via = []) {
  return links.map(([from, out, to, input], i) => {
    const a = at[from], b = at[to];
    const ends = sizes[from].faces.map((face, k) => [[a[0] + a[2] - face.inset[1], a[1] + TITLE + face.outs[out]], [b[0] + sizes[to].faces[k].inset[0], b[1] + TITLE + sizes[to].faces[k].ins[input]]]);
    const link = { from, to, out: `${from}:${out}`, ends, via: via[i] ?? [] };
    return { ...link, paths: paths(link) };
  });
}

// what is left, in the worse of the renderers; `worse`: one number to compare by
export function judged(links, boxes) {
  const each = links[0].paths.map((_, k) => faults(links.map((l) => ({ ...l, path: l.paths[k] })), boxes));
  const crossings = Math.max(...each.map((f) => f.crossings)), behind = Math.max(...each.map((f) => f.behind.length));
  const points = links.flatMap((l) => l.via), all = Object.values(boxes);
  const span = (i) => Math.max(...all.map((b) => b[i] + b[i + 2]), ...points.map((p) => p[i])) - Math.min(...all.map((b) => b[i]), ...points.map((p) => p[i]));
  const [wide, high] = [span(0), span(1)], back = links.filter((l) => boxes[l.to][0] <= boxes[l.from][0]).length;
  const over = behind > 0 || crossings > BARS.crossings || wide > BARS.wide || high > BARS.high;
  const worse = 40 * behind + 25 * back + 3 * crossings + 40 * Math.max(0, crossings - BARS.crossings) + (Math.max(0, wide - BARS.wide) + Math.max(0, high - BARS.high)) / 3 + 2 * points.length;
  return { crossings, behind, back, wide, high, over, worse, points: points.length };
}

// the points as the page saves them
function saved(ui, links) {
  const reroutes = [], linkExtensions = [];
  links.forEach(({ via }, i) => {
    if (!via.length) return;
    const id = ui.links[i][0];
    via.forEach((pos, k) => reroutes.push({ id: reroutes.length + 1, ...(k ? { parentId: reroutes.length } : {}), pos: pos.map(Math.round), linkIds: [id] }));
    linkExtensions.push({ id, parentId: reroutes.length });
  });
  delete ui.extra.reroutes;
  delete ui.extra.linkExtensions;
  if (reroutes.length) Object.assign(ui.extra, { reroutes, linkExtensions });
}

// One try: places, then points for what runs behind a node there.
function attempt(ui, sizes, { seed, columns, rounds }) {
  const noted = ui.nodes.find((n) => n.type === NOTE), note = noted && [sizes[noted.id].w, sizes[noted.id].h + TITLE];
  const inside = new Set((ui.definitions?.subgraphs ?? []).map((of) => of.id));
  const { at, links } = place(nodesFor(ui.nodes, sizes, inside), outerLinks(ui), { note, rounds, hidden: 10, seed, columns });
  const boxes = noted ? { ...at, [noted.id]: [0, 0, ...note] } : at, lines = drawn(links, boxes, sizes);
  for (let i = 0; i < 3 && reroute(lines, boxes); i++);
  return { at: boxes, links, lines, facts: judged(lines, boxes) };
}

// A copy of a saved template with other places, and what is left there: the first of some tries within the bars, or the best.
export function arranged(ui, sizes, { tries = 8, seed = 1, rounds = 14_000, good = 0 } = {}) {
  let best = null;
  for (let i = 0; i < tries && !(best && !best.facts.over && i >= good); i++) {
    const one = attempt(ui, sizes.outer, { seed: seed + i, rounds: rounds * (1 + Math.floor(i / 4)), columns: FEWEST[i % 4] });
    if (!best || one.facts.worse < best.facts.worse) best = one;
  }
  const copy = structuredClone(ui);
  copy.groups = []; // they were around the old places
  put(copy.nodes, best.at, sizes.outer);
  for (const of of copy.definitions?.subgraphs ?? []) reordered(copy, of, best.links);
  saved(copy, best.lines);
  for (const inside of copy.definitions?.subgraphs ?? []) inner(inside, sizes.inner);
  return { ui: copy, facts: best.facts };
}

// The slots of a subgraph and of its node in the order that `links`, the graph's, ask for. A slot without a link keeps its place.
function reordered(ui, inside, links) {
  const node = ui.nodes.find((n) => n.type === inside.id);
  const order = (end, k, list) => {
    const to = list.map((_, i) => i);
    ui.links.forEach((l, i) => { if (l[end] === node.id) { to[l[k]] = links[i][k - 1]; } });
    return to;
  };
  const ins = order(3, 4, node.inputs), outs = order(1, 2, node.outputs), sorted = (list, to) => list.map((_, i) => list[to.indexOf(i)]);
  [node.inputs, inside.inputs, node.outputs, inside.outputs] = [sorted(node.inputs, ins), sorted(inside.inputs, ins), sorted(node.outputs, outs), sorted(inside.outputs, outs)];
  for (const l of ui.links) {
    if (l[3] === node.id) l[4] = ins[l[4]];
    if (l[1] === node.id) l[2] = outs[l[2]];
  }
  for (const l of inside.links) {
    if (l.origin_id < 0) l.origin_slot = ins[l.origin_slot];
    if (l.target_id < 0) l.target_slot = outs[l.target_slot];
  }
}

function inner(graph, sizes) {
  const { at, wide } = place(nodesFor(graph.nodes, sizes), innerLinks(graph), { rounds: 6000 });
  put(graph.nodes, at, sizes);
  graph.inputNode.bounding = [-260, 40, 180, 40 + 20 * graph.inputs.length];
  graph.outputNode.bounding = [wide + 80, 40, 180, 40 + 20 * graph.outputs.length];
}

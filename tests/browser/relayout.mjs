// Places for the nodes of saved templates, without a page: the boxes in the file say how large nodes are.
//   node tests/browser/relayout.mjs [--check] [--all] [--points] [--tries 6] [--seed 1] [stem ...]
// Prints crossings, links behind a foreign node and size of each template. Without --check, those over their bars (or, with --all,
// all) get points for links that run behind a node and, where that is not enough (and without --points), other places; what has fewer faults is written.
// examples.mjs --write places nodes from the API twins, without such points: run this after it.
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import path from "node:path";
import { parseArgs } from "node:util";
import { BARS, faults, place } from "./layout.mjs";
import { reroute, through } from "./reroute.mjs";

const folder = fileURLToPath(new URL("../../example_workflows/", import.meta.url)), ROW = 20, WIDGET = 24, TITLE = 30;

// the middle of each input, from below the title: a widget's lies at the widget
function inputsOf(node) {
  const inputs = node.inputs ?? [], plain = inputs.filter((input) => !input.widget), below = Math.max(plain.length, node.outputs?.length ?? 0) * ROW + 16;
  const widgets = inputs.filter((input) => input.widget);
  return inputs.map((input) => (input.widget ? below + WIDGET * widgets.indexOf(input) : (plain.indexOf(input) + 0.7) * ROW));
}

function read(ui) {
  const nodes = {}, boxes = {};
  let note = null;
  for (const n of ui.nodes) {
    const ins = inputsOf(n), outs = (n.outputs ?? []).map((_, i) => (i + 0.7) * ROW);
    boxes[n.id] = [n.pos[0], n.pos[1] - TITLE, n.size[0], n.size[1] + TITLE];
    if (n.type === "MarkdownNote") note = n;
    else nodes[n.id] = { w: n.size[0], h: n.size[1] + TITLE, ins, outs };
  }
  const links = ui.links.map(([, from, out, to, input]) => [String(from), out, String(to), input]);
  return { nodes, boxes, links, note, via: viaOf(ui) };
}

// the points of each link on its way, as the file has them
function viaOf(ui) {
  const points = Object.fromEntries((ui.extra?.reroutes ?? []).map((r) => [r.id, r])), last = Object.fromEntries((ui.extra?.linkExtensions ?? []).map((l) => [l.id, l.parentId]));
  return ui.links.map(([id]) => {
    const via = [];
    for (let at = points[last[id]]; at; at = points[at.parentId]) via.unshift(at.pos);
    return via;
  });
}

function drawn({ nodes, boxes, links, via }) {
  return links.map(([from, out, to, input], i) => {
    const a = boxes[from], b = boxes[to], ends = [[a[0] + a[2], a[1] + TITLE + nodes[from].outs[out]], [b[0], b[1] + TITLE + nodes[to].ins[input]]];
    return { from, to, out: `${from}:${out}`, ends, via: via[i], path: through(ends[0], via[i], ends[1]) };
  });
}

// crossings, links behind nodes, links that lead back to the left, size
function judge(seen, links = drawn(seen)) {
  const { crossings, behind } = faults(links, seen.boxes), all = Object.values(seen.boxes), points = links.flatMap((l) => l.via);
  const span = (i) => Math.max(...all.map((b) => b[i] + b[i + 2]), ...points.map((p) => p[i])) - Math.min(...all.map((b) => b[i]), ...points.map((p) => p[i]));
  const back = links.filter((l) => seen.boxes[l.to][0] < seen.boxes[l.from][0]).length;
  return { crossings, behind: behind.length, back, wide: span(0), high: span(1) };
}

// points for the links that run behind a node, written as the page saves them; from none
function around(from) {
  const ui = structuredClone(from);
  delete ui.extra.reroutes;
  delete ui.extra.linkExtensions;
  const seen = read(ui), links = drawn(seen), badness = ({ crossings, behind }) => 20 * behind.length + 3 * crossings + 30 * Math.max(0, crossings - BARS.crossings);
  for (let i = 0; i < 3 && reroute(links, seen.boxes, badness); i++);
  const reroutes = [], linkExtensions = [];
  links.forEach(({ via }, i) => {
    if (!via.length) return;
    const id = ui.links[i][0];
    via.forEach((pos, k) => reroutes.push({ id: reroutes.length + 1, ...(k ? { parentId: reroutes.length } : {}), pos: pos.map(Math.round), linkIds: [id] }));
    linkExtensions.push({ id, parentId: reroutes.length });
  });
  if (reroutes.length) Object.assign(ui.extra, { reroutes, linkExtensions });
  return ui;
}

const worse = (facts) => 20 * facts.behind + 15 * facts.back + 3 * facts.crossings + 30 * Math.max(0, facts.crossings - BARS.crossings) + Math.max(0, facts.wide - BARS.wide) / 4 + Math.max(0, facts.high - BARS.high) / 4;
const over = (facts) => facts.behind > 0 || facts.crossings > BARS.crossings || facts.wide > BARS.wide + 60 || facts.high > BARS.high + 60;

// other places, and points for what is left there; the best of some tries
function anew(ui) {
  const seen = read(ui), note = seen.note && [seen.note.size[0], seen.note.size[1] + TITLE];
  let best = null, least = Infinity;
  for (let i = 0; i < Number(options.tries) && (!best || over(judge(read(best)))); i++) {
    const { at } = place(seen.nodes, seen.links, { note, rounds: 14_000, hidden: 10, seed: Number(options.seed) + i, columns: [7, 6, 5, 8][i % 4] }), copy = structuredClone(ui);
    copy.groups = []; // they were around the old places
    for (const n of copy.nodes) {
      const [x, y, w] = at[n.id] ?? [0, 0, n.size[0]];
      n.pos = [Math.round(x), Math.round(y) + TITLE];
      n.size[0] = w;
    }
    const made = around(copy), now = worse(judge(read(made)));
    if (now < least) [best, least] = [made, now];
  }
  return best;
}

const { values: options, positionals } = parseArgs({ allowPositionals: true, options: { check: { type: "boolean" }, all: { type: "boolean" }, points: { type: "boolean" }, tries: { type: "string", default: "6" }, seed: { type: "string", default: "1" } } });
const stems = positionals.length ? positionals : readdirSync(folder).filter((f) => f.endsWith(".json")).map((f) => f.slice(0, -5)).sort();
let left = 0;
for (const stem of stems) {
  const file = path.join(folder, `${stem}.json`), text = readFileSync(file, "utf8");
  let ui = JSON.parse(text), facts = judge(read(ui)), mended = "";
  const was = `${facts.crossings}, ${facts.behind}`;
  if (!options.check && (options.all || over(facts)))
    for (const [way, act] of Object.entries({ around, ...(options.points ? {} : { anew }) })) {
      if (!options.all && !over(facts)) break;
      const copy = act(ui);
      const now = judge(read(copy));
      if (!(worse(now) < worse(facts))) continue;
      writeFileSync(file, `${JSON.stringify(copy, null, 1)}\n`);
      mended = `  (${was}; ${way})`;
      [ui, facts] = [copy, now];
    }
  left += over(facts) ? 1 : 0;
  console.log(`${stem.padEnd(34)} ${String(facts.crossings).padStart(3)} ${String(facts.behind).padStart(3)}  ${Math.round(facts.wide)} × ${Math.round(facts.high)}${over(facts) ? "  <" : ""}${mended}`);
}
process.exitCode = options.check && left ? 1 : 0;

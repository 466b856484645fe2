// Places for the nodes of saved templates, without a page: the boxes in the file say how large nodes are.
//   node tests/browser/relayout.mjs [--check] [--all] [--tries 12] [stem ...]
// Prints crossings, links behind a foreign node and size of each template; without --check, those over their bars (or, with
// --all, all) are laid out anew and written where that has fewer faults. examples.mjs --write does the same from the API twins.
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import path from "node:path";
import { parseArgs } from "node:util";
import { BARS, curve, faults, placed } from "./layout.mjs";

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
  return { nodes, boxes, links, note };
}

// crossings, links behind nodes, size
function judge({ nodes, boxes, links }) {
  const drawn = links.map(([from, out, to, input]) => {
    const a = boxes[from], b = boxes[to];
    return { from, to, out: `${from}:${out}`, path: curve([a[0] + a[2], a[1] + TITLE + nodes[from].outs[out]], [b[0], b[1] + TITLE + nodes[to].ins[input]], 24) };
  });
  const { crossings, behind } = faults(drawn, boxes), all = Object.values(boxes), span = (i) => Math.max(...all.map((b) => b[i] + b[i + 2])) - Math.min(...all.map((b) => b[i]));
  return { crossings, behind: behind.length, wide: span(0), high: span(1) };
}

const worse = (facts) => 20 * facts.behind + 3 * facts.crossings + 30 * Math.max(0, facts.crossings - BARS.crossings) + Math.max(0, facts.wide - BARS.wide) / 4 + Math.max(0, facts.high - BARS.high) / 4;
const over = (facts) => facts.behind > 0 || facts.crossings > BARS.crossings || facts.wide > BARS.wide + 60 || facts.high > BARS.high + 60;

function anew(ui, seen) {
  const { at } = placed(seen.nodes, seen.links, { tries: Number(options.tries), note: seen.note && [seen.note.size[0], seen.note.size[1] + TITLE] });
  ui.groups = []; // they were around the old places
  for (const n of ui.nodes) {
    const [x, y, w] = at[n.id] ?? [0, 0, n.size[0]];
    n.pos = [Math.round(x), Math.round(y) + TITLE];
    n.size[0] = w;
  }
}

const { values: options, positionals } = parseArgs({ allowPositionals: true, options: { check: { type: "boolean" }, all: { type: "boolean" }, tries: { type: "string", default: "12" } } });
const stems = positionals.length ? positionals : readdirSync(folder).filter((f) => f.endsWith(".json")).map((f) => f.slice(0, -5)).sort();
let left = 0;
for (const stem of stems) {
  const file = path.join(folder, `${stem}.json`), ui = JSON.parse(readFileSync(file, "utf8"));
  let seen = read(ui), facts = judge(seen), mended = "";
  if (!options.check && (options.all || over(facts))) {
    anew(ui, seen);
    seen = read(ui);
    const now = judge(seen);
    if (worse(now) < worse(facts)) {
      writeFileSync(file, `${JSON.stringify(ui, null, 1)}\n`);
      mended = `  (${facts.crossings}, ${facts.behind})`;
      facts = now;
    }
  }
  left += over(facts) ? 1 : 0;
  console.log(`${stem.padEnd(34)} ${String(facts.crossings).padStart(3)} ${String(facts.behind).padStart(3)}  ${Math.round(facts.wide)} × ${Math.round(facts.high)}${over(facts) ? "  <" : ""}${mended}`);
}
process.exitCode = options.check && left ? 1 : 0;

// How readable the templates are in the real ComfyUI frontend; python -m benchmarks.ux starts a server and this.
//   node tests/browser/ux.mjs [--url http://127.0.0.1:8188] [--only classic|nodes2] [--run [--steps N]] [--json FILE] [stem ...]
// A line for each template: zoom at opening, pairs of links that cross, links behind a node that is not theirs, nodes that overlap,
// sheets of several batches without labels, and with --run nodes that overlap after a run (of at most N steps and pictures). --json: the same kept in a
// file, beside what it has of other templates. Exit code 1 where one is over its bar.
import { existsSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import path from "node:path";
import { parseArgs } from "node:util";
import { faults } from "./layout.mjs";
import { inPage, launch, open } from "./page.mjs";
import { through } from "./reroute.mjs";

const root = fileURLToPath(new URL("../../", import.meta.url)), folder = path.join(root, "example_workflows");
const { values: options, positionals } = parseArgs({ allowPositionals: true, options: { url: { type: "string", default: "http://127.0.0.1:8188" }, only: { type: "string" }, run: { type: "boolean" }, steps: { type: "string" }, json: { type: "string" } } });
const stems = positionals.length ? positionals : readdirSync(folder).filter((f) => f.endsWith(".json")).map((f) => f.slice(0, -5)).sort();

export const BARS = { zoom: 8 / 14, crossings: 10, behind: 0, overlaps: 0, unlabelled: 0, after: 0 }; // below 8/14 the classic canvas draws no text

const ABSENT = "not run: its files are not here";
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

async function run(page) {
  const asked = page.waitForResponse((r) => /\/prompt$/.test(new URL(r.url()).pathname) && r.request().method() === "POST");
  await page.evaluate(() => app.queuePrompt(0));
  const answer = await asked;
  if (!answer.ok()) return ABSENT;
  const id = (await answer.json()).prompt_id;
  for (let i = 0; i < 1200; i++, await sleep(250)) {
    const entry = (await (await fetch(`${options.url}/history/${id}`)).json())[id];
    if (entry?.status) return entry.status.status_str === "success" ? "" : `the run ended: ${entry.status.status_str}`;
  }
  return "the run did not end in 5 minutes";
}

// boxes as they are drawn: Nodes 2.0 make them of elements, which may be higher than the graph says
const drawn = () => Object.fromEntries([...document.querySelectorAll("[data-node-id]")].map((e) => {
  const r = e.getBoundingClientRect(), { scale, offset } = app.canvas.ds, c = app.canvas.canvas.getBoundingClientRect();
  return [e.dataset.nodeId, [(r.x - c.x) / scale - offset[0], (r.y - c.y) / scale - offset[1], r.width / scale, r.height / scale]];
}));

function overlaps(boxes, titles) {
  const ids = Object.keys(boxes), both = [];
  ids.forEach((a, i) => ids.slice(i + 1).forEach((b) => {
    const [x, y, w, h] = boxes[a], [u, v, s, t] = boxes[b];
    if (x < u + s - 1 && u < x + w - 1 && y < v + t - 1 && v < y + h - 1) both.push(`${titles[a]} and ${titles[b]}`);
  }));
  return both;
}

// no run takes more steps than that, or more pictures
function shorten(most) {
  for (const graph of [app.rootGraph, ...(app.rootGraph.subgraphs?.values() ?? [])])
    for (const w of graph.nodes.flatMap((n) => n.widgets ?? [])) if (["steps", "batch_size"].includes(w.name) && w.value > most) w.value = most;
}

async function look(page, stem, nodes2) {
  const ui = JSON.parse(readFileSync(path.join(folder, `${stem}.json`), "utf8"));
  await page.evaluate(inPage.load, { ui, stem });
  await page.waitForTimeout(800);
  const zoom = (await page.evaluate(inPage.look)).scale;
  const boxesOf = async () => { const { boxes } = await page.evaluate(inPage.look); return nodes2 ? { ...boxes, ...(await page.evaluate(drawn)) } : boxes; };
  const seen = await page.evaluate(inPage.look), before = overlaps(await boxesOf(), seen.titles);
  if (options.steps) await page.evaluate(shorten, Number(options.steps));
  const failed = options.run ? await run(page) : "";
  await page.waitForTimeout(500);
  const after = options.run && failed !== ABSENT ? overlaps(await boxesOf(), seen.titles) : null;
  const links = seen.links.map((l) => ({ ...l, path: through(l.ends[0], l.via, l.ends[1]) })), { crossings, behind } = faults(links, seen.boxes);
  const sheets = await page.evaluate(() => app.graph.nodes.filter((n) => n.type === "SamplingKitImageSheet").filter((n) => n.inputs.filter((i) => i.type === "IMAGE" && i.link).length > 1 && !n.widgets.some((w) => /_labels$/.test(w.name) && w.value)).length);
  return { zoom, crossings, behind: behind.map(([l, id]) => `${seen.titles[l.from]} → ${seen.titles[l.to]} behind ${seen.titles[id]}`), overlaps: before, unlabelled: sheets, after, failed };
}

const count = (value) => (Array.isArray(value) ? value.length : value);
const browser = await launch();
const all = options.json && existsSync(options.json) ? JSON.parse(readFileSync(options.json, "utf8")).renderers : {}; // renderer -> template -> facts
let over = 0;
try {
  for (const renderer of ["classic", "nodes2"].filter((name) => name === (options.only ?? name))) {
    const page = await open(browser, options.url, { nodes2: renderer === "nodes2" });
    console.log(`${renderer.padEnd(30)}  zoom  crossings  behind  overlaps  unlabelled`);
    for (const stem of stems) {
      const facts = await look(page, stem, renderer === "nodes2");
      const bad = Object.entries(BARS).filter(([name, bar]) => (name === "zoom" ? facts.zoom < bar : count(facts[name]) > bar)).map(([name]) => name);
      (all[renderer] ??= {})[stem] = { zoom: facts.zoom, ...Object.fromEntries(["crossings", "behind", "overlaps", "unlabelled", "after"].map((name) => [name, count(facts[name])])), failed: facts.failed };
      if (options.json) writeFileSync(options.json, JSON.stringify({ bars: BARS, renderers: all }));
      over += bad.length + (facts.failed && facts.failed !== ABSENT ? 1 : 0);
      console.log(`${stem.padEnd(30)}  ${facts.zoom.toFixed(2)}  ${String(facts.crossings).padStart(9)}  ${String(facts.behind.length).padStart(6)}  ${String(facts.overlaps.length).padStart(8)}  ${String(facts.unlabelled).padStart(10)}  ${bad.join(", ")}`);
      for (const text of [...facts.overlaps, ...(facts.after ?? []).map((both) => `after the run: ${both}`), ...facts.behind, facts.failed].filter(Boolean)) console.log(`    ${text}`);
    }
    await page.context().close();
  }
} finally {
  await browser.close();
}
process.exitCode = over ? 1 : 0;

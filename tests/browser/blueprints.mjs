// Subgraph blueprints: samplers that look like one node and open into the four parts, made and checked by the real frontend.
//
//   node tests/browser/blueprints.mjs [--url http://127.0.0.1:8188] [--write] [--only classic|nodes2] [--turns]
//     (nothing)  check: each blueprint is found by the page's search, arrives as one node with the values of its parts,
//                makes their prompt closed and unpacked, and a picture when it is queued
//     --turns    check each in one renderer, one after the other, not in both
//     --write    first write subgraphs/<name>.json (restart the server to check them: it reads them at its start)
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import path from "node:path";
import { parseArgs } from "node:util";
import { PACK, launch, open } from "./page.mjs";

const root = fileURLToPath(new URL("../../", import.meta.url));
const { values: options } = parseArgs({ options: { url: { type: "string", default: "http://127.0.0.1:8188" }, write: { type: "boolean" }, turns: { type: "boolean" }, only: { type: "string" } } });
const version = /^version = "(.+)"/m.exec(readFileSync(path.join(root, "pyproject.toml"), "utf8"))[1];
const karras = { spacing: "karras", "spacing.rho": 7 };
const edm = { churn: 0, churn_from: 0, churn_to: 100000, noise: 1 };

// name -> its solver, the widgets of it that the closed node shows, steps, and how they are spread
const BLUEPRINTS = {
  "DDPM": { solver: "DDPM", inputs: { variance: "small", mix: 0.5, clip_x0: 0, data_std: 1 }, shown: ["variance"], steps: 100, spacing: { spacing: "trailing" } },
  "DDIM": { solver: "DDIM", inputs: { eta: 0 }, shown: ["eta"], steps: 30, spacing: { spacing: "trailing" } },
  "Euler": { solver: "Euler", inputs: edm, shown: ["churn"], steps: 25, spacing: karras },
  "Rectified Flow": { solver: "RectifiedFlow", inputs: { eta: 0 }, shown: ["eta"], steps: 25, spacing: { spacing: "trailing" } },
  "DPM++ 2M": { solver: "DPMSolverMultistep", inputs: { max_order: 2, weights: "published", eta: 0, coordinate: "lambda", start: "ramp", lower_order_final: false }, shown: ["eta"], steps: 20, spacing: karras },
  "UniPC": { solver: "UniPC", inputs: { max_order: 2, variant: "bh2", corrector: true, coordinate: "lambda", start: "ramp", lower_order_final: false }, shown: ["max_order"], steps: 15, spacing: karras },
  "Auto": { solver: "Sample", shown: [], steps: 20 }, // one node: the schedule's levels and the solver are chosen when it runs
};
const DESCRIPTION = {
  "DDPM": "Ancestral sampling, all four parts inside: schedule, denoiser (model), CFG guidance, DDPM solver.",
  "DDIM": "DDIM, all four parts inside: schedule, denoiser (model), CFG guidance, DDIM solver. eta = 1 is DDPM.",
  "Euler": "Euler on Karras noise levels, all four parts inside: schedule, denoiser (model), CFG guidance, Euler solver.",
  "Rectified Flow": "Rectified flow, all four parts inside: schedule, denoiser (model), CFG guidance, rectified-flow solver.",
  "DPM++ 2M": "DPM-Solver++ (2M) on Karras noise levels, all four parts inside: schedule, denoiser (model), CFG guidance, solver. eta = 1 is DPM++ 2M SDE.",
  "UniPC": "UniPC on Karras noise levels, all four parts inside: schedule, denoiser (model), CFG guidance, UniPC solver.",
  "Auto": "Sample (Sampling Kit): solver and noise levels are chosen by measurement for the model's schedule, the steps and cfg.",
};

const kit = (type, inputs, title) => ({ class_type: `SamplingKit${type}`, inputs, _meta: { title } });
const INSIDE = 7; // the node whose LATENT is the result
const wired = ({ solver, inputs, steps, spacing }) => ({
  1: kit("NoiseScheduleFromModel", { model: ["11", 0] }, "Noise Schedule from Model"),
  2: kit("Steps", { noise_schedule: ["1", 0], steps, ...spacing, denoise: 1, final: "zero" }, "Steps"),
  3: kit("CFG", { scale: 5, curve: "constant" }, "CFG Guidance"),
  4: kit("Guider", { model: ["11", 0], positive: ["12", 0], negative: ["13", 0], guidance: ["3", 0], share_pure_noise: false }, "Guider"),
  5: kit(solver, inputs, "Solver"),
  6: kit("PerImageNoise", { seed: 0 }, "Per-Image Noise"),
  [INSIDE]: { class_type: "SamplerCustomAdvanced", inputs: { noise: ["6", 0], guider: ["4", 0], sampler: ["5", 0], sigmas: ["2", 0], latent_image: ["14", 0] }, _meta: { title: "Sample" } },
});
const chosen = ({ steps }) => ({
  [INSIDE]: kit("Sample", { model: ["11", 0], positive: ["12", 0], negative: ["13", 0], latent_image: ["14", 0], seed: 0, steps, cfg: 5, solver: "auto", spacing: "auto", denoise: 1 }, "Sample (Sampling Kit)"),
});
const inside = (made) => (made.solver === "Sample" ? chosen : wired)(made);
// [node, widget] of what the closed node shows, in its order
const widgetsOf = (made) => made.solver === "Sample" ? ["steps", "cfg", "denoise", "seed"].map((widget) => [INSIDE, widget])
  : [[2, "steps"], [3, "scale"], [2, "denoise"], ...made.shown.map((widget) => [5, widget]), [6, "seed"]];
// What is inside; and nodes that only give it something to be connected to.
const api = (made) => ({
  ...inside(made),
  11: kit("EmbeddedDenoiser", { kind: "gaussian", "kind.size": 32, "kind.scenes": 20, "kind.rank": 4 }, "Model"),
  12: kit("ClassCondition", { name: "snow" }, "Positive"),
  13: kit("ClassCondition", { name: "unconditional" }, "Negative"),
  14: kit("EmptyPixelLatent", { width: 32, height: 32, batch_size: 1 }, "Latent"),
  15: kit("LatentToImage", { latent: ["7", 0] }, "Latent to Image"),
  16: { class_type: "SaveImage", inputs: { images: ["15", 0], filename_prefix: "blueprint" }, _meta: { title: "Save Image" } },
});

async function build(page, name) {
  const made = BLUEPRINTS[name];
  const saved = await page.evaluate(async ({ api, inner, name, widgets, pack, version, description }) => {
    await app.loadApiJson(api, name);
    const graph = app.rootGraph, within = new Set(inner), place = { 1: [0, 0], 2: [0, 120], 3: [360, 0], 4: [360, 300], 5: [0, 420], 6: [360, 560], 7: [720, 120] };
    for (const n of graph.nodes) {
      n.pos = place[n.id] ?? [-400, 120 * n.id];
      if (n.type.startsWith("SamplingKit")) Object.assign(n.properties, { cnr_id: pack, ver: version });
      const seed = n.widgets?.find((w) => w.name === "control_after_generate");
      if (seed) seed.value = "fixed";
    }
    const { subgraph, node } = graph.convertToSubgraph(new Set(graph.nodes.filter((n) => within.has(String(n.id)))));
    subgraph.name = node.title = name;
    // A widget that the closed node shows is an input of the subgraph, linked to the widget's own. Converting made one of the seed.
    for (const input of subgraph.inputs.filter((i) => i.name === "seed")) subgraph.removeInput(input);
    for (const [id, widget] of widgets) {
      const inside = subgraph.getNodeById(id), slot = inside.getSlotFromWidget(inside.widgets.find((w) => w.name === widget));
      subgraph.addInput(widget, slot.type).connect(slot, inside);
    }
    for (const n of graph.nodes.slice()) if (n !== node) graph.remove(n);
    node.pos = [0, 0];
    const { nodes, definitions } = graph.serialize();
    const own = definitions.subgraphs[0];
    own.category = "Sampling Kit";
    return { revision: 0, last_node_id: nodes[0].id, last_link_id: 0, nodes, links: [], version: 0.4, definitions, extra: { BlueprintDescription: description } };
  }, { api: api(made), inner: Object.keys(inside(made)), name, widgets: widgetsOf(made), pack: PACK, version, description: DESCRIPTION[name] });
  // ids from the name, so that a second run writes the same file
  const seen = new Map();
  const digits = [...name].reduce((h, c) => (h * 31 + c.charCodeAt(0)) >>> 0, 7).toString(16).padStart(8, "0");
  const uuid = (id) => {
    if (!seen.has(id)) seen.set(id, `${digits}-5a4b-4000-8000-${String(seen.size + 1).padStart(12, "0")}`);
    return seen.get(id);
  };
  const text = JSON.stringify(saved, null, 1).replace(/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g, uuid);
  mkdirSync(path.join(root, "subgraphs"), { recursive: true });
  writeFileSync(path.join(root, "subgraphs", `${name}.json`), `${text}\n`);
}

// Adds the blueprint as a user does: double click on the canvas, its name, the entry of that name in the list.
async function drop(page, name) {
  await page.evaluate(() => app.loadGraphData({ nodes: [], links: [], version: 0.4 }, true, true));
  const search = page.locator("input[role=combobox]").last();
  for (let tries = 0; tries < 20 && !(await search.isVisible()); tries++) { // the page is ready a little before its canvas listens
    await page.mouse.dblclick(960, 500);
    await search.waitFor({ timeout: 3000 }).catch(() => {});
  }
  await search.fill(name);
  await page.getByTestId("result-item").filter({ hasText: new RegExp(`^\\s*${name.replaceAll("+", "\\+")}\\s*Blueprint`) }).click();
  await page.waitForFunction(() => app.rootGraph.nodes.some((n) => n.isSubgraphNode()));
}

// What the closed node shows, and what its parts hold: {widget: [value shown, value of the widget inside]}
const values = () => {
  const node = app.rootGraph.nodes.find((n) => n.isSubgraphNode()), saved = node.serialize();
  const links = Object.fromEntries(node.subgraph.inputs.map((i) => [i.name, node.subgraph.getLink(i.linkIds[0])]));
  const inside = (name) => {
    const part = node.subgraph.getNodeById(links[name].target_id);
    return part.widgets.find((w) => w.name === part.inputs[links[name].target_slot].widget.name).value;
  };
  return Object.fromEntries(node.widgets.map((w, i) => [w.name, { shown: w.value, saved: saved.widgets_values[i], inside: inside(w.name) }]));
};

// Connects the node; [node's class, its values] of each prompt, closed and unpacked. Closed, it is queued first.
async function run() {
  const graph = app.rootGraph, node = graph.nodes.find((n) => n.isSubgraphNode());
  const add = (type) => { const n = LiteGraph.createNode(type); graph.add(n); return n; };
  const [model, one, two, latent, images, save] = ["SamplingKitEmbeddedDenoiser", "SamplingKitClassCondition", "SamplingKitClassCondition",
    "SamplingKitEmptyPixelLatent", "SamplingKitLatentToImage", "SaveImage"].map(add);
  const slot = (name) => node.inputs.findIndex((i) => i.name === name);
  for (const [from, to] of [[model, "model"], [one, "positive"], [two, "negative"], [latent, "latent_image"]]) from.connect(0, node, slot(to));
  node.connect(0, images, 0);
  images.connect(0, save, 0);
  const parts = async () => Object.values((await app.graphToPrompt()).output).map((n) => ({ type: n.class_type, inputs: n.inputs }));
  const closed = await parts(), queued = await app.queuePrompt(0, 1);
  graph.unpackSubgraph(node);
  return { closed, queued, opened: await parts() };
}

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

// The spread of the pixels (0 to 255) of the last prompt's picture; an error says how the run ended.
async function picture(page) {
  for (let i = 0; i < 600; i++, await sleep(200)) {
    const [last] = Object.values(await (await fetch(`${options.url}/history`)).json()).slice(-1);
    if (!last || seen.has(last.prompt[1])) continue;
    seen.add(last.prompt[1]);
    const [image] = Object.values(last.outputs).flatMap((o) => o.images ?? []);
    if (!image) throw new Error(`no picture: ${JSON.stringify(last.status)}`);
    return page.evaluate(async (url) => {
      const bitmap = await createImageBitmap(await (await fetch(url)).blob());
      const canvas = new OffscreenCanvas(bitmap.width, bitmap.height), draw = canvas.getContext("2d");
      draw.drawImage(bitmap, 0, 0);
      const grey = draw.getImageData(0, 0, bitmap.width, bitmap.height).data.filter((_, i) => i % 4 === 0);
      return Math.max(...grey) - Math.min(...grey);
    }, `/view?${new URLSearchParams(image)}`);
  }
  throw new Error("no prompt ended within two minutes");
}
const seen = new Set(); // prompts that are another's, or whose pictures were looked at

// The server may have run, or still run, what another test queued.
async function passOver() {
  const ask = async (route) => (await fetch(options.url + route)).json();
  const queue = await ask("/queue");
  for (const entry of [...queue.queue_running, ...queue.queue_pending]) seen.add(entry[1]);
  for (const id of Object.keys(await ask("/history"))) seen.add(id);
}

async function check(page, name, renderer) {
  const problems = [], made = BLUEPRINTS[name], parts = Object.values(inside(made)), want = Object.values(api(made));
  const shown = widgetsOf(made).map(([, widget]) => widget);
  const listed = Object.values(await (await fetch(`${options.url}/global_subgraphs`)).json());
  if (!listed.some((b) => b.name === name)) problems.push("not in /global_subgraphs (listed at the server's start)");
  await drop(page, name);
  const widgets = await page.evaluate(values), expected = Object.assign({}, ...parts.map((n) => n.inputs));
  if (Object.keys(widgets).join() !== shown.join()) problems.push(`it shows ${Object.keys(widgets)}`);
  for (const [widget, held] of Object.entries(widgets))
    for (const [where, value] of Object.entries(held)) if (value !== expected[widget]) problems.push(`${widget}, ${where}: ${value}, expected ${expected[widget]}`);
  await passOver();
  const got = await page.evaluate(run);
  for (const state of ["closed", "opened"]) problems.push(...differences(want, parts, got[state]).map((text) => `${state}: ${text}`));
  if (!got.queued) problems.push("the page did not queue it");
  else if ((await picture(page).catch((e) => problems.push(e.message) && 255)) < 50) problems.push("its picture is blank");
  problems.push(...page.ours.splice(0).map((t) => `the page complained: ${t}`));
  console.log(`${problems.length ? "FAIL" : "ok  "} ${name}, ${renderer}`);
  for (const p of problems) console.log(`       ${p}`);
  return problems.length;
}

// Which parts of the prompt are missing or too many, and which values of the parts inside are not the intended ones.
function differences(want, parts, got) {
  const types = (nodes) => nodes.map((n) => n.class_type ?? n.type).sort().join(" ");
  if (types(want) !== types(got)) return [`the prompt holds ${types(got)}, expected ${types(want)}`];
  return parts.flatMap((part) => {
    const { inputs } = got.find((n) => n.type === part.class_type);
    const wrong = Object.entries(part.inputs).filter(([input, value]) => !Array.isArray(value) && inputs[input] !== value);
    return wrong.map(([input, value]) => `${part.class_type}.${input} = ${inputs[input]}, expected ${value}`);
  });
}

const RENDERERS = { classic: false, nodes2: true };
const browser = await launch();
let failures = 0;
async function onPage(nodes2, task) {
  const page = await open(browser, options.url, { nodes2, settings: { "Comfy.NodeSearchBoxImpl.FollowCursor": false } });
  await task(page);
  await page.context().close();
}
try {
  // Each is built on a page of its own: the frontend remembers widgets' values by node id beyond the graph they were in.
  if (options.write) for (const name of Object.keys(BLUEPRINTS)) await onPage(false, (page) => build(page, name));
  else
    for (const [k, renderer] of Object.keys(RENDERERS).entries()) {
      const names = Object.keys(BLUEPRINTS).filter((_, i) => !options.turns || i % 2 === k);
      if ((options.only ?? renderer) === renderer)
        await onPage(RENDERERS[renderer], async (page) => { for (const name of names) failures += await check(page, name, renderer); });
    }
} finally {
  await browser.close();
}
process.exitCode = failures ? 1 : 0;

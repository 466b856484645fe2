// Subgraph blueprints: samplers that look like one node and open into the four parts, made and checked by the real frontend.
//
//   node tests/browser/blueprints.mjs [--url http://127.0.0.1:8188] [--write]
//     (nothing)  check: each blueprint is listed, goes into a graph as one node, unpacks into its nodes, and makes their prompt
//     --write    first write subgraphs/<name>.json
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import path from "node:path";
import { parseArgs } from "node:util";
import { PACK, launch, open } from "./page.mjs";

const root = fileURLToPath(new URL("../../", import.meta.url));
const { values: options } = parseArgs({ options: { url: { type: "string", default: "http://127.0.0.1:8188" }, write: { type: "boolean" } } });
const version = /^version = "(.+)"/m.exec(readFileSync(path.join(root, "pyproject.toml"), "utf8"))[1];
const edm = { churn: 0, churn_from: 0, churn_to: 100000, noise: 1 };

// name -> its solver, the widgets of it that the closed node shows, steps, and how they are spread
const BLUEPRINTS = {
  "DDPM": { solver: "DDPM", inputs: { variance: "small", mix: 0.5, clip_x0: 0, data_std: 1 }, shown: ["variance"], steps: 100, spacing: { spacing: "trailing" } },
  "DDIM": { solver: "DDIM", inputs: { eta: 0 }, shown: ["eta"], steps: 30, spacing: { spacing: "trailing" } },
  "Euler": { solver: "Euler", inputs: edm, shown: ["churn"], steps: 25, spacing: { spacing: "karras", "spacing.rho": 7 } },
  "Rectified Flow": { solver: "RectifiedFlow", inputs: { eta: 0 }, shown: ["eta"], steps: 25, spacing: { spacing: "trailing" } },
};
const DESCRIPTION = {
  "DDPM": "Ancestral sampling, all four parts inside: schedule, denoiser (model), CFG guidance, DDPM solver.",
  "DDIM": "DDIM, all four parts inside: schedule, denoiser (model), CFG guidance, DDIM solver. eta = 1 is DDPM.",
  "Euler": "Euler on Karras noise levels, all four parts inside: schedule, denoiser (model), CFG guidance, Euler solver.",
  "Rectified Flow": "Rectified flow, all four parts inside: schedule, denoiser (model), CFG guidance, rectified-flow solver.",
};

const kit = (type, inputs, title) => ({ class_type: `SamplingKit${type}`, inputs, _meta: { title } });
// Nodes 1 to 7 go inside; the others only give them something to be connected to.
const api = ({ solver, inputs, steps, spacing }) => ({
  1: kit("NoiseScheduleFromModel", { model: ["11", 0] }, "Noise Schedule from Model"),
  2: kit("Steps", { noise_schedule: ["1", 0], steps, ...spacing, denoise: 1, final: "zero" }, "Steps"),
  3: kit("CFG", { scale: 5, curve: "constant" }, "CFG Guidance"),
  4: kit("Guider", { model: ["11", 0], positive: ["12", 0], negative: ["13", 0], guidance: ["3", 0], share_pure_noise: false }, "Guider"),
  5: kit(solver, inputs, "Solver"),
  6: kit("PerImageNoise", { seed: 0 }, "Per-Image Noise"),
  7: { class_type: "SamplerCustomAdvanced", inputs: { noise: ["6", 0], guider: ["4", 0], sampler: ["5", 0], sigmas: ["2", 0], latent_image: ["14", 0] }, _meta: { title: "Sample" } },
  11: kit("EmbeddedDenoiser", { kind: "gaussian", "kind.size": 32, "kind.scenes": 20, "kind.rank": 4 }, "Model"),
  12: kit("ClassCondition", { name: "snow" }, "Positive"),
  13: kit("ClassCondition", { name: "unconditional" }, "Negative"),
  14: kit("EmptyPixelLatent", { width: 32, height: 32, batch_size: 1 }, "Latent"),
  15: kit("LatentToImage", { latent: ["7", 0] }, "Latent to Image"),
  16: { class_type: "SaveImage", inputs: { images: ["15", 0], filename_prefix: "blueprint" }, _meta: { title: "Save Image" } },
});

async function build(page, name) {
  const made = BLUEPRINTS[name];
  const saved = await page.evaluate(async ({ api, name, shown, pack, version, description }) => {
    await app.loadApiJson(api, name);
    const graph = app.rootGraph, place = { 1: [0, 0], 2: [0, 120], 3: [360, 0], 4: [360, 300], 5: [0, 420], 6: [360, 560], 7: [720, 120] };
    for (const n of graph.nodes) {
      n.pos = place[n.id] ?? [-400, 120 * n.id];
      if (n.type.startsWith("SamplingKit")) Object.assign(n.properties, { cnr_id: pack, ver: version });
      const seed = n.widgets?.find((w) => w.name === "control_after_generate");
      if (seed) seed.value = "fixed";
    }
    const { subgraph, node } = graph.convertToSubgraph(new Set(graph.nodes.filter((n) => n.id in place)));
    subgraph.name = node.title = name;
    node.properties = { ...node.properties, proxyWidgets: [["2", "steps"], ["3", "scale"], ...shown.map((w) => ["5", w]), ["6", "seed"]] };
    for (const n of graph.nodes.slice()) if (n !== node) graph.remove(n);
    node.pos = [0, 0];
    const { nodes, definitions } = graph.serialize();
    const own = definitions.subgraphs[0];
    own.category = "Sampling Kit";
    return { revision: 0, last_node_id: nodes[0].id, last_link_id: 0, nodes, links: [], version: 0.4, definitions, extra: { BlueprintDescription: description } };
  }, { api: api(made), name, shown: made.shown, pack: PACK, version, description: DESCRIPTION[name] });
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

// Loads the blueprint's file as a workflow, connects it, compares its prompt with the parts', and unpacks it.
async function check(page, name) {
  const problems = [], listed = Object.values(await (await fetch(`${options.url}/global_subgraphs`)).json());
  if (!listed.some((b) => b.name === name)) problems.push("not in /global_subgraphs (listed at the server's start)");
  const blueprint = JSON.parse(readFileSync(path.join(root, "subgraphs", `${name}.json`), "utf8"));
  const want = api(BLUEPRINTS[name]);
  const got = await page.evaluate(async ({ blueprint, name }) => {
    await app.loadGraphData(blueprint, true, true, name);
    const graph = app.rootGraph, node = graph.nodes[0];
    const add = (type) => { const n = LiteGraph.createNode(type); graph.add(n); return n; };
    const model = add("SamplingKitEmbeddedDenoiser"), one = add("SamplingKitClassCondition"), two = add("SamplingKitClassCondition"), latent = add("SamplingKitEmptyPixelLatent");
    const images = add("SamplingKitLatentToImage"), save = add("SaveImage");
    const slot = (name) => node.inputs.findIndex((i) => i.name === name);
    for (const [from, to] of [[model, "model"], [one, "positive"], [two, "negative"], [latent, "latent_image"]]) from.connect(0, node, slot(to));
    node.connect(0, images, 0);
    images.connect(0, save, 0);
    const closed = Object.values((await app.graphToPrompt()).output).map((n) => n.class_type).sort();
    const widgets = (node.widgets ?? []).map((w) => w.name);
    graph.unpackSubgraph(node);
    const opened = Object.values((await app.graphToPrompt()).output).map((n) => n.class_type).sort();
    return { closed, opened, widgets, inputs: node.inputs.map((i) => i.name) };
  }, { blueprint, name });
  const types = Object.values(want).map((n) => n.class_type).sort();
  for (const state of ["closed", "opened"])
    if (JSON.stringify(got[state]) !== JSON.stringify(types)) problems.push(`${state}: the prompt holds ${got[state]}, expected ${types}`);
  for (const w of ["steps", "scale", "seed", ...BLUEPRINTS[name].shown]) if (!got.widgets.some((x) => x.includes(w))) problems.push(`widget ${w} is not shown: ${got.widgets}`);
  problems.push(...page.ours.splice(0).map((t) => `the page complained: ${t}`));
  console.log(`${problems.length ? "FAIL" : "ok  "} ${name}`);
  for (const p of problems) console.log(`       ${p}`);
  return problems.length;
}

const browser = await launch();
let failures = 0;
try {
  const page = await open(browser, options.url);
  for (const name of Object.keys(BLUEPRINTS)) {
    if (options.write) await build(page, name);
    failures += await check(page, name);
  }
} finally {
  await browser.close();
}
process.exitCode = failures ? 1 : 0;

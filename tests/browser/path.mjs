// A person's path from an empty canvas to a picture of a checkpoint, once with KSampler and once with Sample: by mouse and keyboard, each act counted.
//   node tests/browser/path.mjs [--url http://127.0.0.1:8188] [--shots DIR] [--only classic|nodes2]
// The server needs one checkpoint (tests/host/random_checkpoints.py makes a random one). Sizes and steps are set small without an act,
// alike in both: a CPU runs this.
import { eachRenderer, hold, page, settled, shot, test, until } from "./panels.mjs";

const MOST_MORE = 2; // acts that Sample may take more than KSampler
const SCALE = 0.55, SAMPLERS = { KSampler: ["KSampler", "KSampler"], Sample: ["Sample (Sampling Kit)", "SamplingKitSample"] };
let acts = 0;

// --------------------------------------------------------------------------- run inside the page

const inside = {
  async empty(scale) {
    await app.extensionManager.setting.set("Comfy.NodeSearchBoxImpl.FollowCursor", false); // a node lands where the canvas was clicked
    await app.loadGraphData({ nodes: [], links: [], version: 0.4 }, true, true);
    app.canvas.ds.scale = scale;
    app.canvas.ds.offset[0] = app.canvas.ds.offset[1] = 0;
    app.canvas.setDirty(true, true);
  },
  count: () => app.graph.nodes.length,
  linked({ id, name }) { const { link } = app.graph.getNodeById(id).inputs.find((i) => i.name === name); return link !== null && link !== undefined; },
  newest: (type) => Math.max(...app.graph.nodes.filter((n) => n.type === type).map((n) => Number(n.id)), -1),
  slot({ id, output, input }) { // where a slot is in the window
    const node = app.graph.getNodeById(id), { scale, offset } = app.canvas.ds, c = app.canvas.canvas.getBoundingClientRect();
    const side = output ? "outputs" : "inputs", i = node[side].findIndex((s) => s.name === (output ?? input));
    if (i < 0) throw new Error(`${node.type} has no ${output ?? input}: ${node[side].map((s) => s.name)}`);
    const dot = document.querySelector(`[data-node-id="${id}"] [data-slot-key="${id}-${output ? "out" : "in"}-${i}"]`)?.getBoundingClientRect();
    if (dot) return [dot.x + dot.width / 2, dot.y + dot.height / 2];
    const [x, y] = output ? node.getOutputPos(i) : node.getInputPos(i);
    return [(x + offset[0]) * scale + c.x, (y + offset[1]) * scale + c.y];
  },
  small(values) { for (const n of app.graph.nodes) for (const w of n.widgets ?? []) if (w.name in values) { w.value = values[w.name]; w.callback?.(w.value); } },
  pictures: async () => {
    const entries = Object.values(await (await fetch("/history")).json());
    return entries.filter((e) => e.status?.completed).flatMap((e) => Object.values(e.outputs)).flatMap((o) => o.images ?? []);
  },
};

// ------------------------------------------------------------------------------------- acting

const act = (one) => { acts++; return one; };

// Double click on the canvas, the name, the entry of that name; returns the node's number.
async function add(name, type, [x, y]) {
  const search = page.locator("input[role=combobox]").last(), before = await page.evaluate(inside.count);
  for (let tries = 0; tries < 8 && !(await search.isVisible()); tries++) { // the page is ready a little before its canvas listens
    await page.mouse.dblclick(x, y);
    await search.waitFor({ timeout: 10_000 }).catch(() => {});
  }
  act();
  if (!(await search.isVisible())) await shot("path-no-search");
  await act(search.fill(name));
  await shot("path-search");
  const exact = new RegExp(`^\\s*${name.replace(/[()]/g, "\\$&")}(?!\\s*\\()`);
  const item = page.getByTestId("result-item").filter({ hasText: exact }).first();
  await settled(item); // the list changes as one types
  await act(item.click());
  await until(`a node ${name}`, () => page.evaluate(inside.count), (n) => n === before + 1);
  await page.waitForTimeout(300);
  return page.evaluate(inside.newest, type);
}

async function link(from, output, to, input) {
  for (let tries = 0; tries < 3; tries++) { // a view that still moves is missed
    const [a, b] = [await page.evaluate(inside.slot, { id: from, output }), await page.evaluate(inside.slot, { id: to, input })];
    await page.mouse.move(...a);
    await page.mouse.down();
    await page.mouse.move((a[0] + b[0]) / 2, (a[1] + b[1]) / 2, { steps: 4 });
    await page.mouse.move(...b, { steps: 4 });
    await page.mouse.up();
    await page.waitForTimeout(150);
    if (await page.evaluate(inside.linked, { id: to, name: input })) return act();
  }
  await shot("path-no-link");
  throw new Error(`no link from ${output} to ${input}`);
}

// The whole path; returns how many acts it took.
async function walk([name, type]) {
  await page.evaluate(inside.empty, SCALE);
  acts = 0;
  const sampler = await add(name, type, [1000, 180]);
  const loader = await add("Load Checkpoint", "CheckpointLoaderSimple", [140, 180]);
  const positive = await add("CLIP Text Encode (Prompt)", "CLIPTextEncode", [560, 180]), negative = await add("CLIP Text Encode (Prompt)", "CLIPTextEncode", [560, 420]);
  const latent = await add("Empty Latent Image", "EmptyLatentImage", [560, 660]);
  const decode = await add("VAE Decode", "VAEDecode", [1330, 180]), save = await add("Save Image", "SaveImage", [1600, 180]);
  for (const text of [positive, negative]) await link(loader, "CLIP", text, "clip");
  await link(loader, "MODEL", sampler, "model");
  await link(positive, "CONDITIONING", sampler, "positive");
  await link(negative, "CONDITIONING", sampler, "negative");
  await link(latent, "LATENT", sampler, "latent_image");
  await link(sampler, name === "KSampler" ? "LATENT" : "latent", decode, "samples");
  await link(loader, "VAE", decode, "vae");
  await link(decode, "IMAGE", save, "images");
  await page.evaluate(inside.small, { width: 64, height: 64, steps: 2, seed: Math.floor(Math.random() * 1e6) });
  const before = (await page.evaluate(inside.pictures)).length;
  await page.evaluate(() => document.activeElement?.blur());
  await act(hold("Control", "Enter"));
  const all = await until(`a picture with ${name}`, () => page.evaluate(inside.pictures), (list) => list.length > before, 300_000);
  await page.waitForTimeout(1500);
  await shot(`path-${type}`);
  return { acts, picture: all.at(-1) };
}

await eachRenderer(() => test("from an empty canvas to a picture", async (expect) => {
  const took = {};
  for (const [key, names] of Object.entries(SAMPLERS)) {
    const { acts: count, picture } = await walk(names);
    took[key] = count;
    const width = await page.evaluate(async (image) => (await createImageBitmap(await (await fetch(`/view?${new URLSearchParams(image)}`)).blob())).width, picture);
    expect(width === 64, `${key}: the picture is ${width} wide`);
  }
  console.log(`     acts: ${Object.entries(took).map(([key, n]) => `${key} ${n}`).join(", ")}`);
  expect(took.Sample <= took.KSampler + MOST_MORE, `Sample takes ${took.Sample - took.KSampler} acts more`);
}));

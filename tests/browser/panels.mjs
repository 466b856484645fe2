// What the scripts about the pack's widgets share: their options, one report line a test, a graph of panels, and ways to look at it.
import { mkdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import path from "node:path";
import { parseArgs } from "node:util";
import { inPage, launch, open } from "./page.mjs";

export const root = fileURLToPath(new URL("../../", import.meta.url));
const { values: options } = parseArgs({ options: { url: { type: "string", default: "http://127.0.0.1:8188" }, shots: { type: "string" }, only: { type: "string" } } });
if (options.shots) mkdirSync(options.shots, { recursive: true });

export let page, mode; // of the renderer under test
let failures = 0;

// Runs `tests` on a fresh page of each renderer, classic and Nodes 2.0; the process fails if one of them did.
export async function eachRenderer(tests) {
  const browser = await launch();
  try {
    for (mode of ["classic", "nodes2"]) {
      if (options.only && options.only !== mode) continue;
      page = await open(browser, options.url, { nodes2: mode === "nodes2" });
      await tests();
      await page.context().close();
    }
  } finally {
    await browser.close();
  }
  process.exitCode = failures ? 1 : 0;
}

export async function test(what, act, { refused = false } = {}) { // refused: the page may note an answer 400
  const problems = [];
  try {
    await act((right, wrong) => { if (!right) problems.push(wrong); });
  } catch (error) { problems.push(String(error.stack ?? error).slice(0, 600)); }
  const ours = page.ours.splice(0).filter((t) => !(refused && /\b400\b.*sampling_kit\/preview/.test(t)));
  problems.push(...ours.map((t) => `the page complained: ${t}`));
  failures += problems.length;
  console.log(`${problems.length ? "FAIL" : "ok  "} ${mode}: ${what}`);
  for (const p of problems) console.log(`       ${p}`);
}

// --------------------------------------------------------------------------- run inside the page

export const inside = {
  async build() {
    app.graph.clear();
    const make = (type, x, y, width) => {
      const node = LiteGraph.createNode(type);
      app.graph.add(node);
      node.pos = [x, y];
      if (width) node.setSize([width, node.size[1]]);
      return node;
    };
    const kit = (name, ...at) => make(`SamplingKit${name}`, ...at);
    const schedule = kit("NoiseSchedule", 0, 0), solver = kit("DPMSolverMultistep", 0, 450);
    const steps = kit("Steps", 330, 0), editor = kit("ScheduleEditor", 330, 450), plot = kit("PlotSchedule", 680, 0), table = kit("SolverTable", 680, 500, 460);
    const slot = (node, name) => node.inputs.findIndex((i) => i.name === name);
    const wait = () => new Promise((r) => setTimeout(r, 300));
    schedule.connect(0, steps, 0);
    schedule.connect(0, editor, 0);
    steps.connect(0, plot, slot(plot, "sigmas.sigmas0"));
    await wait(); // the growing input grows
    editor.connect(0, plot, slot(plot, "sigmas.sigmas1"));
    solver.connect(0, table, slot(table, "sampler"));
    steps.connect(0, table, slot(table, "sigmas"));
    schedule.connect(0, table, slot(table, "noise_schedule"));
    app.canvas.emitBeforeChange();
    app.canvas.emitAfterChange();
  },
  set({ type, name, value, index = 0 }) {
    const widget = app.graph.nodes.filter((n) => n.type === type)[index].widgets.find((w) => w.name === name);
    widget.value = value;
    widget.callback?.(value);
  },
  get: ({ type, name, index = 0 }) => app.graph.nodes.filter((n) => n.type === type)[index]?.widgets.find((w) => w.name === name)?.value,
  lines({ type, index }) { // of the panel itself: far away the page does not show it
    const element = app.canvas.graph.nodes.filter((n) => n.type === type)[index]?.widgets.find((w) => w.name === "sampling_kit_panel")?.element;
    return [...(element?.querySelectorAll(".sk-area path") ?? [])].map((p) => p.getAttribute("d"));
  },
  kept: ({ type, index = 0 }) => app.graph.nodes.filter((n) => n.type === type)[index]?.properties.sampling_kit,
  async loadTraced(prompt) {
    await app.loadApiJson(prompt, "traced");
    const of = (type) => app.graph.nodes.find((n) => n.type === `SamplingKit${type}`), trace = of("ShowTrace"), plot = of("PlotSchedule");
    trace.setSize([320, trace.size[1]]);
    plot.pos = [trace.pos[0] + 400, trace.pos[1]];
  },
  forge({ type, text }) { // the node's last run is read from a text of a stranger's
    sessionStorage.setItem(`sampling_kit.trace.forged${text.length}`, text);
    const node = app.graph.nodes.find((n) => n.type === type);
    node.properties.sampling_kit = { ...node.properties.sampling_kit, run: `forged${text.length}` };
  },
  mark() { // so that a panel is found by its node's type
    const seen = {};
    for (const node of app.graph.nodes) {
      const panel = node.widgets?.find((w) => w.name === "sampling_kit_panel")?.element;
      if (panel) panel.dataset.of = `${node.type}-${(seen[node.type] = (seen[node.type] ?? -1) + 1)}`;
    }
  },
};

// The example `trace`, smaller, with a plot of levels that only the run can tell: a graph in API format.
export function traced() {
  const api = JSON.parse(readFileSync(path.join(root, "example_workflows", "api", "trace.json"), "utf8"));
  const kind = (name) => Object.keys(api).filter((id) => api[id].class_type === `SamplingKit${name}`);
  const [show0] = kind("ShowTrace"), [model] = kind("EmbeddedDenoiser"), [steps] = kind("Steps");
  const needed = new Set();
  const need = (id) => { needed.add(id); for (const v of Object.values(api[id].inputs)) if (Array.isArray(v)) need(v[0]); };
  need(show0);
  const graph = Object.fromEntries([...needed].map((id) => [id, api[id]]));
  graph[steps].inputs.steps = 5;
  graph[model].inputs["kind.scenes"] = 8 + (Date.now() % 90); // each page has scenes of its own: the host tells nothing of a node whose result it keeps
  graph[show0].inputs.frames = 4;
  graph[101] = { class_type: "SamplingKitNoiseScheduleFromModel", inputs: { model: [model, 0] } };
  graph[102] = { class_type: "SamplingKitSteps", inputs: { noise_schedule: ["101", 0], steps: 6, spacing: "trailing", denoise: 1, final: "zero" } };
  graph[103] = { class_type: "SamplingKitPlotSchedule", inputs: { "sigmas.sigmas0": ["102", 0], y: "log_sigma", x: "step" } };
  return graph;
}

// ------------------------------------------------------------------------------------- looking

export const panel = (type, index = 0) => page.locator(`[data-of="SamplingKit${type}-${index}"]`);
export const value = (type, name, index = 0) => page.evaluate(inside.get, { type: `SamplingKit${type}`, name, index });
export const set = (type, name, v, index = 0) => page.evaluate(inside.set, { type: `SamplingKit${type}`, name, value: v, index });
export const lines = (type, index = 0) => page.evaluate(inside.lines, { type: `SamplingKit${type}`, index });
export const note = (type, index = 0) => panel(type, index).locator(".sk-note").innerText();

export async function until(what, look, right = Boolean, patience = 60_000) {
  const end = Date.now() + patience;
  let last;
  while (Date.now() < end) {
    last = await look().catch((error) => error);
    if (!(last instanceof Error) && right(last)) return last;
    await page.waitForTimeout(100);
  }
  throw new Error(`${what}: ${JSON.stringify(last instanceof Error ? last.message : last)?.slice(0, 300)}`);
}

// The box of an element at rest: a node that is drawn anew has none for a moment, and moves until the view stands still.
export async function settled(element) {
  let last = null;
  return until("the element rests", () => element.boundingBox({ timeout: 1000 }), (box) => {
    const rests = box && last && box.x === last.x && box.y === last.y;
    last = box;
    return rests;
  }, 10_000);
}

export async function show() {
  await page.evaluate(inside.mark);
  await page.evaluate(inPage.fit);
  await page.waitForTimeout(700);
}

export async function shot(name, of) {
  if (!options.shots) return;
  const file = path.join(options.shots, `${mode}-${name}.png`);
  await (of ? of.screenshot({ path: file }) : page.screenshot({ path: file }));
}

// Held until the page has drawn: the host acts on a key in the next frame, and on its release it may note a change, which ends redo.
export async function hold(...keys) {
  for (const key of keys) await page.keyboard.down(key);
  await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
  for (const key of keys.reverse()) await page.keyboard.up(key);
}

export const changes = async (type, act, index = 0) => {
  const before = JSON.stringify(await lines(type, index));
  await act();
  await until(`${type} does not change`, async () => JSON.stringify(await lines(type, index)), (now) => now !== before && now !== "[]");
};

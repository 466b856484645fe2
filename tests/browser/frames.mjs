// Frames a second with many Schedule Editors on the canvas, beside as many of ComfyUI's own KarrasScheduler, in one page and in turns.
// Each node has one link from one node, so that both draw as many links; with --bare those of KarrasScheduler have none.
//   node tests/browser/frames.mjs [--url http://127.0.0.1:8188] [--only classic|nodes2] [--nodes 30] [--seconds 4] [--rounds 3] [--bare]
// The canvas moves all the time, as under a hand; the fastest second of all rounds counts. Exit code 1 where the editors have less than 0.9 of the others' rate.
import { parseArgs } from "node:util";
import { inPage, launch, open } from "./page.mjs";

const { values: options } = parseArgs({ options: { url: { type: "string", default: "http://127.0.0.1:8188" }, only: { type: "string" }, nodes: { type: "string", default: "30" }, seconds: { type: "string", default: "4" }, rounds: { type: "string", default: "3" }, bare: { type: "boolean" } } });
const LEAST = 0.9;

async function fill({ type, count, bare }) {
  app.graph.clear();
  const add = (of, x, y) => { const node = LiteGraph.createNode(of); app.graph.add(node); node.pos = [x, y]; return node; };
  const ours = type.startsWith("SamplingKit"), source = bare && !ours ? null : add(ours ? "SamplingKitNoiseSchedule" : "PrimitiveFloat", -400, 0);
  for (let i = 0; i < count; i++) {
    const node = add(type, (i % 6) * 420, Math.floor(i / 6) * 480);
    node.setSize([380, 400]);
    source?.connect(0, node, ours ? 0 : node.inputs.findIndex((i) => i.name === "rho"));
  }
  await new Promise((done) => setTimeout(done, 500));
}

const frames = (ms) => new Promise((done) => {
  const begun = performance.now();
  let count = 0;
  (function next() {
    app.canvas.ds.offset[0] += count % 2 ? 2 : -2;
    app.canvas.setDirty(true, true);
    count++;
    const passed = performance.now() - begun;
    if (passed < ms) requestAnimationFrame(next);
    else done((1000 * count) / passed);
  })();
});

async function rate(page, type) {
  await page.evaluate(fill, { type, count: Number(options.nodes), bare: options.bare });
  await page.evaluate(inPage.fit);
  if (type.startsWith("SamplingKit")) await page.waitForFunction((count) => [...document.querySelectorAll(".sk-note")].filter((note) => /^σ/.test(note.textContent)).length === count, Number(options.nodes));
  await page.evaluate(frames, 2000); // drawn
  const each = [];
  for (let i = 0; i < Number(options.seconds); i++) each.push(await page.evaluate(frames, 1000));
  return Math.max(...each); // the second that other processes disturbed least
}

const browser = await launch();
let slow = 0;
try {
  for (const renderer of ["classic", "nodes2"].filter((name) => name === (options.only ?? name))) {
    const page = await open(browser, options.url, { nodes2: renderer === "nodes2" }), ours = [], theirs = [];
    for (let i = 0; i < Number(options.rounds); i++) {
      theirs.push(await rate(page, "KarrasScheduler"));
      ours.push(await rate(page, "SamplingKitScheduleEditor"));
    }
    const best = [ours, theirs].map((values) => Math.max(...values)), share = best[0] / best[1];
    slow += share < LEAST ? 1 : 0;
    console.log(`${renderer}: ${options.nodes} Schedule Editors ${best[0].toFixed(1)} frames/s, KarrasScheduler ${best[1].toFixed(1)}: ${share.toFixed(2)} (at least ${LEAST})`);
    await page.context().close();
  }
} finally {
  await browser.close();
}
process.exitCode = slow ? 1 : 0;

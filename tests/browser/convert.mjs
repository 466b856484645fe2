// The menu entries of KSampler and Sample in the real ComfyUI frontend, classic and Nodes 2.0: links, values, pictures, one step of undo.
//   node tests/browser/convert.mjs [--url http://127.0.0.1:8188] [--shots DIR] [--only classic|nodes2]
import { inPage } from "./page.mjs";
import { eachRenderer, hold, page, shot, show, test, until } from "./panels.mjs";

const TO_SAMPLE = "Convert to Sampling Kit Sample", APART = "Take apart";
const kit = (type, inputs) => ({ class_type: `SamplingKit${type}`, inputs });
const SIZE = 24;
const graphOf = (sampler) => ({
  1: kit("EmbeddedDenoiser", { kind: "gaussian", "kind.size": SIZE, "kind.scenes": 4, "kind.rank": 2, space: "pixels" }),
  2: kit("ClassCondition", { name: "snow" }),
  3: kit("ClassCondition", { name: "unconditional" }),
  4: kit("EmptyPixelLatent", { width: SIZE, height: SIZE, batch_size: 1 }),
  5: { ...sampler, inputs: { model: ["1", 0], positive: ["2", 0], negative: ["3", 0], latent_image: ["4", 0], ...sampler.inputs } },
  6: kit("LatentToImage", { latent: ["5", 0] }),
  7: { class_type: "PreviewImage", inputs: { images: ["6", 0] } },
});
const ksampler = (inputs) => graphOf({ class_type: "KSampler", inputs: { seed: 7, steps: 8, cfg: 2.5, sampler_name: "euler", scheduler: "karras", denoise: 1, ...inputs } });
const advanced = (inputs) => graphOf({ class_type: "KSamplerAdvanced", inputs: { add_noise: "enable", noise_seed: 7, steps: 8, cfg: 2.5, sampler_name: "euler", scheduler: "karras", start_at_step: 0, end_at_step: 10000, return_with_leftover_noise: "disable", ...inputs } });
const sample = (inputs) => graphOf(kit("Sample", { seed: 7, steps: 8, cfg: 2.5, solver: "auto", spacing: "auto", denoise: 1, ...inputs }));

// --------------------------------------------------------------------------- run inside the page

const inside = {
  types: () => app.graph.nodes.map((n) => n.type).sort(),
  values: (type) => Object.fromEntries((app.graph.nodes.find((n) => n.type === type)?.widgets ?? []).filter((w) => w.serialize !== false).map((w) => [w.name, w.value])),
  titleOf(type) { // in the window, where its title is grasped
    const node = app.graph.nodes.find((n) => n.type === type), { scale, offset } = app.canvas.ds, c = app.canvas.canvas.getBoundingClientRect();
    return [(node.pos[0] + 60 + offset[0]) * scale + c.x, (node.pos[1] - 12 + offset[1]) * scale + c.y];
  },
  text: () => document.body.innerText,
  overlaps() {
    const boxes = app.graph.nodes.map((n) => [n.pos[0], n.pos[1] - 30, n.size[0], n.size[1] + 30, n.title]), both = [];
    boxes.forEach(([x, y, w, h, a], i) => boxes.slice(i + 1).forEach(([u, v, s, t, b]) => { if (x < u + s && u < x + w && y < v + t && v < y + h) both.push(`${a} and ${b}`); }));
    return both;
  },
};

// ------------------------------------------------------------------------------------- acting

async function open(api) {
  await page.evaluate((graph) => app.loadApiJson(graph, "convert"), api);
  await page.evaluate(() => { // a row, so that what grows has neighbours
    let x = 0;
    for (const n of app.graph.nodes) for (const w of n.widgets ?? []) if (w.name === "control_after_generate") w.value = "fixed";
    for (const n of [...app.graph.nodes].sort((a, b) => a.id - b.id)) { n.pos = [x, 0]; x += n.size[0] + 40; }
    app.canvas.emitBeforeChange();
    app.canvas.emitAfterChange();
  });
  await page.waitForTimeout(300); // boxes follow their places when drawn
  await show();
}

// the bytes of the picture that a run shows
async function pictured() {
  const address = await page.evaluate(async () => {
    const { api } = await import("/scripts/api.js");
    const done = new Promise((resolve, reject) => {
      api.addEventListener("executed", function seen({ detail }) { if (detail.output?.images) { api.removeEventListener("executed", seen); resolve(detail.output.images[0]); } });
      api.addEventListener("execution_error", ({ detail }) => reject(new Error(detail.exception_message)), { once: true });
    });
    const late = new Promise((_, reject) => setTimeout(() => reject(new Error("no picture in 60 s")), 60_000));
    app.queuePrompt(0);
    const image = await Promise.race([done, late]);
    return `/view?${new URLSearchParams(image)}`;
  });
  return page.evaluate(async (url) => {
    const bitmap = await createImageBitmap(await (await fetch(url)).blob()), canvas = new OffscreenCanvas(bitmap.width, bitmap.height), draw = canvas.getContext("2d");
    draw.drawImage(bitmap, 0, 0);
    return [...draw.getImageData(0, 0, bitmap.width, bitmap.height).data].join();
  }, address);
}

async function choose(type, entry) {
  const item = page.getByText(entry, { exact: true }).first();
  for (let tries = 0; tries < 4; tries++) { // a view that still moves is missed
    const [x, y] = await page.evaluate(inside.titleOf, type);
    await page.mouse.click(x, y, { button: "right" });
    await page.waitForTimeout(500);
    await shot(`menu-${type}`);
    if (await item.isVisible()) return item.click({ timeout: 30_000 });
    for (const way of [/^Extensions$/, /^More Options$/]) await page.getByText(way).first().hover({ timeout: 500 }).catch(() => {});
    if (await item.isVisible()) return item.click({ timeout: 30_000 });
    await page.keyboard.press("Escape");
    await show();
  }
  await shot("menu-missing");
  throw new Error(`no entry "${entry}" in the menu of ${type}`);
}

const types = () => page.evaluate(inside.types);
const prompt = () => page.evaluate(inPage.prompt);
const said = (...words) => until(`said: ${words}`, () => page.evaluate(inside.text), (text) => words.every((w) => text.replace(/\s+/g, " ").includes(w)), 10_000);
function gap(a, b) { // the most by which two pictures differ, of 255
  const [x, y] = [a.split(","), b.split(",")];
  return x.length === y.length ? Math.max(...x.map((v, i) => Math.abs(v - y[i]))) : 255;
}
const has = (list, ...names) => names.every((name) => list.includes(name));

// What a run has told the nodes of a kind is kept, and the page has compared: neither is a step.
async function noted(type) {
  await until(`the run is told to ${type}`, () => page.evaluate((name) => app.graph.nodes.find((n) => n.type === name).properties.sampling_kit, type), Boolean);
  await page.evaluate(() => dispatchEvent(new MouseEvent("mouseup")));
}

async function undo(before, what) {
  await page.evaluate(() => document.activeElement?.blur());
  await hold("Control", "z");
  await until(`one undo after ${what}`, async () => JSON.stringify(await prompt()), (now) => now === JSON.stringify(before), 10_000);
}

// -------------------------------------------------------------------------------------- tests

async function converting() {
  await test("KSampler becomes Sample: links, values, the same picture, one step of undo", async (expect) => {
    await open(ksampler({}));
    const before = await prompt(), picture = await pictured();
    await choose("KSampler", TO_SAMPLE);
    await until("Sample", types, (all) => has(all, "SamplingKitSample") && !all.includes("KSampler"));
    const values = await page.evaluate(inside.values, "SamplingKitSample");
    const { control_after_generate: control, ...rest } = values;
    expect(control !== undefined && JSON.stringify(rest) === JSON.stringify({ seed: 7, steps: 8, cfg: 2.5, solver: "Euler", spacing: "karras", denoise: 1, auto_version: 4 }), JSON.stringify(values));
    expect(!(await page.evaluate(inside.overlaps)).length, `overlap: ${await page.evaluate(inside.overlaps)}`);
    await shot("converted");
    const off = gap(await pictured(), picture);
    expect(off <= 1, `the picture differs by ${off} of 255`); // levels are computed in float64 here, in float32 there
    await noted("SamplingKitSample");
    await undo(before, "a conversion");
  });

  await test("what has no counterpart is ComfyUI's own, and is said", async (expect) => {
    await open(ksampler({ sampler_name: "dpmpp_sde", scheduler: "normal", denoise: 0.6, steps: 4 }));
    await choose("KSampler", TO_SAMPLE);
    await until("Sample", types, (all) => has(all, "SamplingKitSample", "BasicScheduler"));
    const [{ inputs: basic }] = Object.values(await prompt()).filter((n) => n.class_type === "BasicScheduler"), [{ inputs: made }] = Object.values(await prompt()).filter((n) => n.class_type === "SamplingKitSample");
    expect(basic.scheduler === "normal" && basic.steps === 4 && basic.denoise === 0.6 && basic.model?.[0] === "1" && made.sigmas, JSON.stringify(basic));
    expect(made.solver === "SEEDS-2", made.solver);
    expect(made.spacing === "auto", made.spacing);
    await said("dpmpp_sde: SEEDS-2 comes next; it draws its noise by another rule.", "normal: ComfyUI's own noise levels are connected");
    await shot("converted-near");
    await pictured();
  });

  await test("KSamplerAdvanced: a part of a run keeps its levels; a run on a noisy latent stays", async (expect) => {
    await open(advanced({ start_at_step: 3, end_at_step: 6, return_with_leftover_noise: "enable" }));
    const picture = await pictured();
    await choose("KSamplerAdvanced", TO_SAMPLE);
    await until("Sample", types, (all) => has(all, "SamplingKitSample", "BasicScheduler", "SplitSigmas"));
    expect((await pictured()) === picture, "the picture is another");
    await open(advanced({ add_noise: "disable" }));
    const before = await prompt();
    await choose("KSamplerAdvanced", TO_SAMPLE);
    await said("It goes on with a latent that is noisy already");
    expect(JSON.stringify(await prompt()) === JSON.stringify(before), "the graph changed");
  });
}

async function dividing() {
  await test("Sample comes apart: the same picture, one step of undo", async (expect) => {
    for (const inputs of [{ solver: "DPM++ 2M SDE", spacing: "exponential", denoise: 0.7 }, { solver: "auto", spacing: "auto" }, { solver: "Euler", spacing: "karras", cfg: 1 }]) {
      await open(sample({ ...inputs, seed: Math.floor(Date.now() % 1e6) }));
      const before = await prompt(), picture = await pictured();
      await until("the run is told", () => page.evaluate(() => app.graph.nodes.find((n) => n.type === "SamplingKitSample").properties.sampling_kit?.took), Boolean);
      await choose("SamplingKitSample", APART);
      const all = await until("parts", types, (now) => !now.includes("SamplingKitSample"));
      expect(has(all, "SamplingKitSteps", "SamplingKitGuider", "SamplingKitPerImageNoise", "SamplerCustomAdvanced", "SamplingKitNoiseScheduleFromModel") && all.includes("SamplingKitCFG") === (inputs.cfg !== 1), all.join());
      expect(!(await page.evaluate(inside.overlaps)).length, `overlap: ${await page.evaluate(inside.overlaps)}`);
      await show();
      await shot(`apart-${inputs.solver}`);
      expect((await pictured()) === picture, `${inputs.solver}: the picture is another`);
      await noted("SamplingKitSteps");
      if (inputs.cfg !== 1) continue;
      await undo(before, "taking apart");
    }
  });

  await test("auto stays until a run has said what it is", async (expect) => {
    await open(sample({}));
    const before = await prompt();
    await choose("SamplingKitSample", APART);
    await said("is known after a run");
    expect(JSON.stringify(await prompt()) === JSON.stringify(before), "the graph changed");
  });
}

await eachRenderer(async () => {
  await converting();
  await dividing();
});

// The pack's widgets in the real ComfyUI frontend, classic and Nodes 2.0.
//   node tests/browser/widgets.mjs [--url http://127.0.0.1:8188] [--shots DIR] [--only classic|nodes2]
// Draws each widget, changes inputs, drags and types, undoes, copies, reloads, runs; --shots keeps a picture of each.
import { readFileSync } from "node:fs";
import path from "node:path";
import { inPage } from "./page.mjs";
import { changes, eachRenderer, hold, inside, lines, mode, note, page, panel, root, set, settled, shot, show, test, traced, until, value } from "./panels.mjs";

async function widgets() {
  await test("every widget is drawn before any run", async (expect) => {
    await page.evaluate(inside.build);
    const small = await page.evaluate(() => app.graph.nodes.filter((n) => n.computeSize().some((least, i) => n.size[i] < least)).map((n) => n.type));
    expect(!small.length, `smaller than when loaded again, which the host takes for a change: ${small}`);
    await show();
    for (const type of ["Steps", "PlotSchedule", "ScheduleEditor"]) await until(type, () => lines(type), (l) => l.length && l[0].length > 40);
    await until("two runs", () => lines("PlotSchedule"), (l) => l.filter((d) => d.split("L").length > 10).length === 2);
    await until("table", () => panel("SolverTable").locator("tbody tr").count(), (n) => n === 21);
    expect(/NFE 20 · order 2/.test(await panel("SolverTable").innerText()), await panel("SolverTable").innerText());
    for (const type of ["Steps", "PlotSchedule", "ScheduleEditor", "SolverTable"]) {
      const box = await panel(type).boundingBox(), frame = page.viewportSize();
      expect(box && box.height > 60 && box.width > 150 && box.x >= 0 && box.x + box.width <= frame.width, `${type} lies at ${JSON.stringify(box)}`);
      await shot(type, panel(type));
    }
    await shot("all");
  });

  await test("values change when inputs change", async (expect) => {
    await changes("Steps", () => set("Steps", "steps", 8));
    await until("table follows", () => panel("SolverTable").locator("tbody tr").count(), (n) => n === 9);
    await changes("Steps", () => set("Steps", "spacing", "karras"));
    await changes("Steps", () => set("Steps", "spacing.rho", 2));
    await changes("Steps", () => set("NoiseSchedule", "kind", "rectified_flow"));
    await changes("Steps", () => set("NoiseSchedule", "kind.shift", 5));
    await changes("Steps", () => panel("Steps").locator("[data-key=lambda]").click());
    expect((await page.evaluate(inside.kept, { type: "SamplingKitSteps" })).y === "lambda", "the axis is not kept");
    await changes("PlotSchedule", () => panel("PlotSchedule").locator("[data-key=sigma]").click());
    expect((await value("PlotSchedule", "y")) === "sigma", "the axis is not the widget's");
    await changes("PlotSchedule", () => set("PlotSchedule", "y", "timestep"));
    await set("NoiseSchedule", "kind", "vp_linear");
    await set("PlotSchedule", "y", "log_sigma");
    await until("vp again", () => note("ScheduleEditor"), (t) => /157/.test(t));
  });

  await test("values are shown on hover and by the arrow keys, and copied as text", async (expect) => {
    await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
    const plot = panel("Steps").locator(".sk-area > svg"), tip = panel("Steps").locator(".sk-tip");
    await plot.hover();
    expect(/^step \d+\nσ .+\nλ .+\nt /.test(await tip.innerText()), await tip.innerText());
    await shot("Steps-hover", panel("Steps"));
    await plot.focus();
    await plot.press("Home");
    expect(/^step 0\nσ 157/.test(await tip.innerText()), await tip.innerText());
    await plot.press("ArrowRight");
    expect(/^step 1\n/.test(await tip.innerText()), await tip.innerText());
    await panel("Steps").locator("[data-key=sigma]").click();
    await panel("Steps").locator(".sk-copy").click();
    const copied = (await page.evaluate(() => navigator.clipboard.readText())).split(", ").map(Number);
    expect(copied.length === 9 && Math.abs(copied[0] - 157.4073) < 1e-3 && copied[8] === 0, `copied ${copied}`);
    await panel("Steps").getByText("pin").click();
    await set("Steps", "steps", 5);
    await until("pinned beside the new one", () => lines("Steps"), (l) => l.length === 2);
    await shot("Steps-pinned", panel("Steps"));
  });

  await test("a drag in the editor changes text and levels; undo takes it back", async (expect) => {
    const handle = panel("ScheduleEditor").locator(".sk-handle").nth(1), before = await value("ScheduleEditor", "curve"), levels = await lines("ScheduleEditor");
    const box = await settled(handle);
    const top = await panel("ScheduleEditor").boundingBox(); // above it lie the node's widgets
    const inputs = () => page.screenshot({ clip: { x: top.x, y: top.y - 110, width: top.width, height: 100 } });
    await page.mouse.move(box.x + box.width / 2, box.y + box.height / 2);
    await page.waitForTimeout(300);
    const pictured = await inputs();
    await page.mouse.down();
    await page.mouse.move(box.x - 20, box.y + 10, { steps: 4 });
    await page.mouse.move(box.x - 40, box.y + 30, { steps: 4 });
    await page.mouse.up();
    const dragged = await value("ScheduleEditor", "curve");
    expect(/^0:1, 0\.[1-4]\d*:0\.[1-4]\d*, 1:0$/.test(dragged), `the text is ${dragged}`);
    await until("the curve follows", () => lines("ScheduleEditor"), (l) => l[0] !== levels[0]);
    await until("the node still shows the old text", async () => !(await inputs()).equals(pictured), Boolean, 5000);
    await shot("ScheduleEditor-dragged", panel("ScheduleEditor"));
    await page.evaluate(() => document.activeElement?.blur());
    await hold("Control", "z");
    await until("undo", () => value("ScheduleEditor", "curve"), (t) => t === before);
    await page.evaluate(inside.mark);
    await hold("Control", "y");
    await until("redo", () => value("ScheduleEditor", "curve"), (t) => t === dragged);
    await page.evaluate(inside.mark);
  });

  await test("the editor works from the keyboard and follows its text", async (expect) => {
    await set("ScheduleEditor", "curve", "0:1, 0.5:0.5, 1:0");
    await until("drawn", () => panel("ScheduleEditor").locator(".sk-handle").count(), (n) => n === 3);
    const handle = panel("ScheduleEditor").locator(".sk-handle").nth(1);
    await until("the text moves the handle", () => handle.getAttribute("aria-valuenow"), (v) => v === "0.5");
    await handle.focus();
    for (const key of ["ArrowUp", "ArrowUp", "Shift+ArrowLeft"]) await page.keyboard.press(key);
    expect((await value("ScheduleEditor", "curve")) === "0:1, 0.45:0.52, 1:0", await value("ScheduleEditor", "curve"));
    await page.keyboard.press("Enter");
    expect((await value("ScheduleEditor", "curve")) === "0:1, 0.45:0.52, 0.725:0.26, 1:0", await value("ScheduleEditor", "curve"));
    await page.keyboard.press("Delete");
    expect((await value("ScheduleEditor", "curve")) === "0:1, 0.45:0.52, 1:0", await value("ScheduleEditor", "curve"));
    expect(await page.evaluate(() => app.graph.nodes.some((n) => n.type === "SamplingKitScheduleEditor")), "Delete removed the node");
    await set("ScheduleEditor", "curve", "1, 2, 3");
    await until("says what is wrong", () => note("ScheduleEditor"), (t) => /progress:height/.test(t));
    await set("ScheduleEditor", "curve", "0:1, 0.3:0.7, 1:0.1");
    await until("right again", () => note("ScheduleEditor"), (t) => /^σ from/.test(t));
  }, { refused: true });

  await test("10^6 levels are refused in words", async () => {
    await set("Steps", "steps", 10000);
    await until("message", () => note("Steps"), (t) => /4096/.test(t));
    await set("Steps", "steps", 8);
    await until("plot", () => note("Steps"), (t) => t === "");
  }, { refused: true });
}

async function canvas() {
  await test("the wheel zooms the canvas over a plot, and scrolls a table", async (expect) => {
    const zoom = () => page.evaluate(() => app.canvas.ds.scale), before = await zoom();
    await panel("Steps").locator(".sk-area").hover();
    await page.mouse.wheel(0, -120);
    await until("zoom", zoom, (z) => z > before);
    await show();
    await set("Steps", "steps", 20);
    const scroll = panel("SolverTable").locator(".sk-scroll"), still = await zoom();
    await until("rows", () => scroll.locator("tbody tr").count(), (n) => n === 21);
    await scroll.focus();
    await scroll.hover();
    await page.mouse.wheel(0, 60);
    await until("scrolled", () => scroll.evaluate((e) => e.scrollTop), (t) => t > 0);
    expect((await zoom()) === still, "the canvas moved with the table");
    await set("Steps", "steps", 8);
    await show();
  });

  await test("wire types have their colours, also after a change of theme", async (expect) => {
    const colors = () => page.evaluate(() => [app.canvas.constructor.link_type_colors.NOISE_SCHEDULE, getComputedStyle(document.documentElement).getPropertyValue("--color-datatype-NOISE_SCHEDULE")]);
    expect((await colors()).every((c) => c === "#1aa08c"), String(await colors()));
    await page.evaluate(() => app.extensionManager.setting.set("Comfy.ColorPalette", "light"));
    await page.waitForTimeout(1000);
    await until("again", colors, (c) => c.every((one) => one === "#1aa08c"));
    await shot("light");
    await page.evaluate(() => app.extensionManager.setting.set("Comfy.ColorPalette", "dark"));
  });
}

async function keeping() {
  const state = async (index = 0) => ({ curve: await value("ScheduleEditor", "curve", index), steps: await value("Steps", "steps", index), rho: await value("Steps", "spacing.rho", index), kept: await page.evaluate(inside.kept, { type: "SamplingKitSteps", index }) });
  await test("copy and paste keeps text, axes and pins", async (expect) => {
    const before = await state();
    await page.evaluate(() => { app.canvas.selectItems(app.graph.nodes); app.canvas.copyToClipboard(); app.canvas.pasteFromClipboard(); });
    await show();
    expect(JSON.stringify(await state(1)) === JSON.stringify(before), `${JSON.stringify(await state(1))} is not ${JSON.stringify(before)}`);
    await until("the copy is drawn", () => lines("ScheduleEditor", 1), (l) => l.length && l[0].length > 40);
    await set("Steps", "steps", 3, 1);
    await until("copies are independent", () => lines("Steps", 1), (l) => l[0]?.split("L").length <= 4);
    expect((await value("Steps", "steps")) === before.steps, "the original changed with the copy");
    await page.evaluate(() => { for (const n of app.graph.nodes.slice(6)) app.graph.remove(n); });
  });

  await test("reload keeps everything", async (expect) => {
    await page.evaluate(() => { app.canvas.emitBeforeChange(); app.canvas.emitAfterChange(); });
    const before = await state(), saved = await page.evaluate(() => JSON.stringify(app.graph.serialize().nodes.map((n) => n.widgets_values)));
    await page.waitForTimeout(2000); // the page keeps its draft after a pause
    await page.reload();
    await page.waitForFunction(() => window.app?.vueAppReady && app.graph?.nodes.length === 6, null, { timeout: 120_000 });
    await show();
    expect(JSON.stringify(await state()) === JSON.stringify(before), `${JSON.stringify(await state())} is not ${JSON.stringify(before)}`);
    expect((await page.evaluate(() => JSON.stringify(app.graph.serialize().nodes.map((n) => n.widgets_values)))) === saved, "widgets_values changed");
    for (const type of ["Steps", "PlotSchedule", "ScheduleEditor"]) await until(type, () => lines(type), (l) => l.length && l[0].length > 20);
    await until("table", () => panel("SolverTable").locator("tbody tr").count(), (n) => n === 9);
    await shot("reloaded");
  });
}

async function templates() {
  const stem = "same-noise-four-solvers", ui = JSON.parse(readFileSync(path.join(root, "example_workflows", `${stem}.json`), "utf8"));
  await test(`${stem}: Steps is drawn; its schedule is read through a reroute, a bypassed node and a subgraph`, async (expect) => {
    await page.evaluate(inPage.load, { ui, stem });
    await show();
    const direct = await until("Steps", () => lines("Steps"), (l) => l.length && l[0].length > 40);
    await page.evaluate(() => {
      const at = (type) => app.graph.nodes.find((n) => n.type === type), steps = at("SamplingKitSteps"), schedule = at("SamplingKitNoiseSchedule");
      const reroute = LiteGraph.createNode("Reroute");
      app.graph.add(reroute);
      schedule.connect(0, reroute, 0);
      reroute.connect(0, steps, 0);
    });
    await page.waitForTimeout(500);
    expect((await note("Steps")) === "" && (await lines("Steps"))[0] === direct[0], `after a reroute: ${await note("Steps")}`);
    await page.evaluate(() => {
      const at = (type) => app.graph.nodes.find((n) => n.type === type);
      app.graph.convertToSubgraph(new Set([at("SamplingKitNoiseSchedule")]));
    });
    await page.waitForTimeout(500);
    expect((await note("Steps")) === "", `after a subgraph: ${await note("Steps")}`);
    await shot("template");
  });
}

async function running() {
  const graph = traced();

  await test("a run shows its trace, and levels that only it can tell", async (expect) => {
    await page.evaluate(inside.loadTraced, graph);
    await page.waitForTimeout(500);
    await show();
    await until("named", () => note("PlotSchedule"), (t) => t === "“Noise Schedule from Model” is known only after a run.");
    expect((await panel("ShowTrace").locator("input").isDisabled()), "the slider moves before a run");
    await page.evaluate(() => app.queuePrompt(0));
    await until("strip", () => panel("ShowTrace").locator("[data-count]").count(), (n) => n === 2, 120_000);
    await until("curve", () => lines("ShowTrace"), (l) => l.length && l[0].length > 20);
    await until("levels", () => lines("PlotSchedule"), (l) => l.length && l[0].split("L").length === 6);
    await until("its schedule is remembered", () => note("PlotSchedule"), (t) => t === "With the noise schedule of the last run of “Noise Schedule from Model”.");
    await changes("PlotSchedule", () => set("Steps", "steps", 12, 1)); // and stays live
    await until("twelve steps", () => lines("PlotSchedule"), (l) => l.length && l[0].split("L").length === 12);
    await set("Steps", "steps", 6, 1);
    await until("levels again", () => lines("PlotSchedule"), (l) => l.length && l[0].split("L").length === 6);
    await show();
    await shot("ShowTrace", panel("ShowTrace"));
    const at = () => panel("ShowTrace").locator("[data-count]").first().evaluate((e) => e.style.backgroundPosition);
    const last = await at();
    await panel("ShowTrace").locator("input").fill("0");
    expect((await at()) !== last, "the slider does not change the frame");
    await changes("ShowTrace", () => panel("ShowTrace").locator("select").selectOption({ index: 2 }));
    await shot("traced");
  });

  await test("reload keeps strip, curve and levels", async (expect) => {
    await page.waitForTimeout(2000);
    await page.reload();
    await page.waitForFunction((n) => window.app?.vueAppReady && app.graph?.nodes.length === n, Object.keys(graph).length, { timeout: 120_000 });
    await show();
    await until("strip", () => panel("ShowTrace").locator("[data-count]").count(), (n) => n === 2);
    expect((await panel("ShowTrace").locator("select").evaluate((e) => e.selectedIndex)) === 2, "the choice of curve is lost");
    await until("levels", () => lines("PlotSchedule"), (l) => l.length && l[0].split("L").length === 6);
  });
}

async function far() {
  if (mode !== "classic") return; // Nodes 2.0 draw no node on the canvas
  await test("far away a plot is drawn on the canvas, and follows", async (expect) => {
    await page.evaluate(inside.build);
    await show();
    await until("drawn", () => lines("ScheduleEditor"), (l) => l.length && l[0].length > 40);
    await page.evaluate(() => { app.canvas.ds.scale = 0.5; app.canvas.setDirty(true, true); });
    await until("the page hides the panel", () => panel("ScheduleEditor").isVisible(), (shown) => !shown);
    const seen = () => page.evaluate(() => { // its pixels of the colour of the curve, as [x, y] sums
      const node = app.graph.nodes.find((n) => n.type === "SamplingKitScheduleEditor"), { scale, offset } = app.canvas.ds, dpr = devicePixelRatio || 1;
      const box = [(node.pos[0] + offset[0]) * scale, (node.pos[1] + offset[1]) * scale, node.size[0] * scale, node.size[1] * scale].map((v) => Math.round(v * dpr));
      const { data } = app.canvas.canvas.getContext("2d").getImageData(...box);
      let count = 0, sum = 0;
      for (let i = 0; i < data.length; i += 4) if (data[i + 2] - data[i] > 60 && data[i + 2] > data[i + 1]) { count++; sum += (i / 4) % box[2]; }
      return { count, middle: Math.round(sum / count) };
    });
    const before = await until("the curve is on the canvas", seen, ({ count }) => count > 60);
    await set("ScheduleEditor", "curve", "0:1, 0.1:0.1, 1:0");
    await until("the picture follows", seen, ({ count, middle }) => count > 60 && (count !== before.count || middle !== before.middle));
    expect(!(await panel("ScheduleEditor").isVisible()), "the panel is shown");
    await shot("far");
  });
}

async function cost() {
  await test("less than 100 KB, and less than 100 ms of the page's start", async (expect) => {
    const { bytes, best } = await page.evaluate(async () => {
      const mine = performance.getEntriesByType("resource").filter((r) => /sampling-kit\/js\/.*\.js$/.test(r.name)), texts = {}, times = [];
      for (const r of mine) texts[r.name.split("/").at(-1)] = await (await fetch(r.name)).text();
      const order = []; // each after those that it imports; without those that speak to the host
      const visit = (name) => { if (order.includes(name)) return; for (const [, of] of texts[name].matchAll(/from "\.\/(.+)"/g)) visit(of); order.push(name); };
      for (const name of Object.keys(texts)) if (!texts[name].includes("../../../scripts/")) visit(name);
      for (let i = 0; i < 20 && !(i > 4 && Math.min(...times) < 100); i++) { // a busy machine
        const url = {}, start = performance.now();
        for (const name of order) url[name] = URL.createObjectURL(new Blob([texts[name].replace(/from "\.\/(.+)"/g, (_, of) => `from "${url[of]}"`)], { type: "text/javascript" }));
        await Promise.all(order.map((name) => import(url[name])));
        times.push(performance.now() - start);
      }
      return { bytes: mine.reduce((sum, r) => sum + r.decodedBodySize, 0), best: Math.min(...times) };
    });
    console.log(`       ${bytes} bytes, ${best.toFixed(1)} ms`);
    expect(bytes > 10_000 && bytes < 100_000, `${bytes} bytes`);
    expect(best < 100, `${best} ms`);
  });
}

await eachRenderer(async () => {
  await cost();
  await far();
  await widgets();
  await canvas();
  await keeping();
  await running();
  await templates();
});

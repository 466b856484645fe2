// The pack's panels after undo: drawn, followed and, above all, obeyed. Nodes 2.0 makes every node anew when it undoes, but keeps what it drew of them.
//   node tests/browser/undo.mjs [--url http://127.0.0.1:8188] [--shots DIR] [--only classic|nodes2]
import { changes, eachRenderer, hold, inside, lines, page, panel, set, settled, shot, show, test, traced, until, value } from "./panels.mjs";

const PANEL = "sampling_kit_panel";
const EDITOR = "SamplingKitScheduleEditor";

// --------------------------------------------------------------------------- run inside the page

const undoing = {
  move(type) { // an edit that has nothing to do with a panel
    app.canvas.emitBeforeChange();
    const node = app.graph.nodes.find((n) => n.type === type);
    node.pos = [node.pos[0] + 40, node.pos[1] + 10];
    app.canvas.emitAfterChange();
  },
  x: (type) => app.graph.nodes.find((n) => n.type === type)?.pos[0],
  dead: (name) => app.canvas.graph.nodes.filter((n) => n.widgets?.some((w) => w.name === name && !w.element.isConnected && !(w.options.hideOnZoom && app.canvas.low_quality))).map((n) => n.type),
  spare(name) { // panels in the page that no node has
    const graphs = [app.rootGraph, ...app.rootGraph.subgraphs.values()];
    const alive = new Set(graphs.flatMap((g) => g.nodes).flatMap((n) => n.widgets ?? []).filter((w) => w.name === name).map((w) => w.element));
    return [...document.querySelectorAll(".sk")].filter((element) => !alive.has(element)).length;
  },
  queued: async (type) => Object.values((await app.graphToPrompt()).output).filter((n) => n.class_type === type).map((n) => n.inputs.curve),
};

// ------------------------------------------------------------------------------------- acting

const x = (type) => page.evaluate(undoing.x, `SamplingKit${type}`);
const queued = () => page.evaluate(undoing.queued, EDITOR);

async function key(...keys) {
  await page.evaluate(() => document.activeElement?.blur());
  await hold(...keys);
}

// Each node's panel is in the page, and none but theirs.
async function alive(when) {
  await until(`dead ${when}`, () => page.evaluate(undoing.dead, PANEL), (types) => !types.length, 5000);
  await until(`panels without a node ${when}`, () => page.evaluate(undoing.spare, PANEL), (n) => n === 0, 5000);
  await page.evaluate(inside.mark);
}

// Twice: the first undo may give the graph a new id, and Nodes 2.0 then draw it anew.
async function moveAndUndo(type = "NoiseSchedule") {
  const before = await x(type);
  for (const when of ["undo", "a second undo"]) {
    await page.evaluate(undoing.move, `SamplingKit${type}`);
    await key("Control", "z");
    await until(when, () => x(type), (now) => now === before, 10_000);
  }
}

// What is on the screen, whatever node it belongs to: a stale panel looks like a living one.
const drawn = (index = 0) => page.locator(".sk").filter({ has: page.locator(".sk-handle") }).nth(index);

// Drags the middle handle as a user does; returns the curve as drawn.
async function drag(dx, dy, index = 0) {
  const handles = drawn(index).locator(".sk-handle"), box = await settled(handles.nth(1));
  const [left, top] = [box.x + box.width / 2, box.y + box.height / 2];
  await page.mouse.move(left, top);
  await page.mouse.down();
  await page.mouse.move(left + dx / 2, top + dy / 2, { steps: 3 });
  await page.mouse.move(left + dx, top + dy, { steps: 3 });
  await page.mouse.up();
  return handles.evaluateAll((all) => all.map((h) => h.getAttribute("aria-valuetext").match(/[\d.]+/g).reverse().join(":")).join(", "));
}

// A drag changes what is drawn, the node's text and what is queued, all to the same.
async function obeyed(expect, when, dx, dy, index = 0) {
  const before = (await queued())[index], curve = await drag(dx, dy, index), sent = (await queued())[index];
  expect(curve !== before, `${when}: the drag is not drawn: ${curve}`);
  expect(sent === curve, `${when}: ${curve} is drawn, ${sent} is queued`);
}
const editorObeys = async (expect, when, ...by) => {
  await obeyed(expect, when, ...by);
  const text = await value("ScheduleEditor", "curve"), [sent] = await queued();
  expect(text === sent, `${when}: the text is ${text}, ${sent} is queued`);
};

// -------------------------------------------------------------------------------------- tests

async function panels() {
  await test("after undo of another node's move a dragged curve is queued", async (expect) => {
    await page.evaluate(inside.build);
    await show();
    await until("drawn", () => lines("ScheduleEditor"), (l) => l.length && l[0].length > 40);
    await editorObeys(expect, "before undo", -20, 20);
    await moveAndUndo();
    await page.waitForTimeout(600);
    await editorObeys(expect, "after undo", 25, -15);
    await shot("undo-dragged");
    await alive("after undo");
    await shot("undo-dragged-editor", panel("ScheduleEditor"));
  });

  await test("after undo every panel follows its inputs", async (expect) => {
    await moveAndUndo();
    await alive("after undo");
    await changes("Steps", () => set("Steps", "steps", 5));
    await until("table", () => panel("SolverTable").locator("tbody tr").count(), (n) => n === 6);
    await changes("Steps", () => panel("Steps").locator("[data-key=lambda]").click());
    await changes("PlotSchedule", () => panel("PlotSchedule").locator("[data-key=sigma]").click());
    expect((await value("PlotSchedule", "y")) === "sigma", "the axis is not the widget's");
    await set("Steps", "steps", 10000);
    await until("an error is shown", () => panel("Steps").locator(".sk-note").innerText(), (t) => /4096/.test(t));
    await set("Steps", "steps", 8);
    await changes("ScheduleEditor", () => set("ScheduleEditor", "curve", "0:1, 0.5:0.5, 1:0"));
    await shot("undo-followed");
  }, { refused: true });

  await test("after several undos and redos the dragged curve is queued", async (expect) => {
    await page.evaluate(() => { app.canvas.emitBeforeChange(); app.canvas.emitAfterChange(); });
    const texts = [await value("ScheduleEditor", "curve")];
    for (const by of [[-20, 25], [30, -10], [-15, 5]]) {
      await editorObeys(expect, "a drag", ...by);
      texts.push(await value("ScheduleEditor", "curve"));
    }
    for (const i of [2, 1, 0]) { await key("Control", "z"); await until(`undo to ${i}`, () => value("ScheduleEditor", "curve"), (t) => t === texts[i], 10_000); }
    for (const i of [1, 2]) { await key("Control", "y"); await until(`redo to ${i}`, () => value("ScheduleEditor", "curve"), (t) => t === texts[i], 10_000); }
    await alive("after redo");
    await page.waitForTimeout(400);
    await editorObeys(expect, "after redo", 20, 20);
    await key("Control", "z");
    await until("undo of that drag", () => value("ScheduleEditor", "curve"), (t) => t === texts[2]);
    await alive("after undo of a drag");
  });
}

async function copies() {
  await test("a copy and its original both obey after undo, and a removed one leaves nothing", async (expect) => {
    await page.evaluate((type) => { app.canvas.selectItems(app.graph.nodes.filter((n) => n.type === type)); app.canvas.copyToClipboard(); app.canvas.pasteFromClipboard(); app.canvas.emitBeforeChange(); app.canvas.emitAfterChange(); }, EDITOR);
    await page.evaluate((type) => { const copy = app.graph.nodes.filter((n) => n.type === type)[1]; copy.pos = [copy.pos[0] - 400, copy.pos[1] + 400]; app.canvas.emitBeforeChange(); app.canvas.emitAfterChange(); }, EDITOR);
    await show();
    await moveAndUndo();
    await alive("after undo");
    await page.waitForTimeout(400);
    for (const index of [0, 1]) {
      const before = await queued(), curve = await drag(-15 + 35 * index, 10, index), after = await queued();
      expect(after.filter((c) => c === curve).length === 1 && after.filter((c, i) => c !== before[i]).length === 1, `${curve} is drawn, ${after} is queued, before ${before}`);
    }
    await page.evaluate((type) => { const copy = app.graph.nodes.filter((n) => n.type === type)[1]; app.graph.remove(copy); app.canvas.emitBeforeChange(); app.canvas.emitAfterChange(); }, EDITOR);
    await alive("after a removal");
    await key("Control", "z");
    await until("the copy is back", queued, (all) => all.length === 2);
    await alive("after undo of a removal");
    await key("Control", "y");
    await until("the copy is gone", queued, (all) => all.length === 1);
    await alive("after redo of a removal");
  });
}

async function tabs() {
  await test("after a change of tabs and an undo the dragged curve is queued", async (expect) => {
    const turn = (to) => page.evaluate((name) => app.extensionManager.command.execute(name), `Workspace.${to}OpenedWorkflow`);
    const here = await page.evaluate(() => app.rootGraph.serialize()), [curve] = await queued();
    const other = structuredClone(here); // the same numbers, and the same id, as in a duplicate
    for (const node of other.nodes) if (node.type === EDITOR) node.widgets_values = node.widgets_values.map((v) => (v === curve ? "0:1, 0.4:0.9, 1:0" : v));
    await page.evaluate((graph) => app.loadGraphData(graph, true, true, "other"), other);
    await until("the other tab", queued, (all) => all[0] === "0:1, 0.4:0.9, 1:0");
    await alive("in the other tab");
    await show();
    await editorObeys(expect, "in the other tab", 15, 15);
    await moveAndUndo();
    await alive("in the other tab after undo");
    await page.waitForTimeout(400);
    await editorObeys(expect, "in the other tab after undo", 15, 15);
    await turn("Previous");
    await until("the first tab", queued, (all) => all[0] === curve);
    await alive("in the first tab");
    await show();
    await editorObeys(expect, "in the first tab", -15, 10);
    await moveAndUndo();
    await alive("in the first tab after undo");
    await page.waitForTimeout(400);
    await editorObeys(expect, "in the first tab after undo", -15, 10);
  });
}

async function subgraph() {
  await test("inside a subgraph a dragged curve is queued after undo", async (expect) => {
    await page.evaluate((type) => {
      const { node } = app.graph.convertToSubgraph(new Set(app.graph.nodes.filter((n) => [type, "SamplingKitSteps"].includes(n.type))));
      app.canvas.emitBeforeChange();
      app.canvas.emitAfterChange();
      app.canvas.openSubgraph(node.subgraph, node);
    }, EDITOR);
    await until("inside", () => page.evaluate(() => app.canvas.graph !== app.rootGraph));
    await page.waitForTimeout(500);
    await show();
    await alive("inside");
    await obeyed(expect, "inside", 15, 15);
    const [dragged] = await queued();
    await obeyed(expect, "inside, again", -30, 5);
    await key("Control", "z");
    await until("undo", queued, ([c]) => c === dragged);
    await until("still inside", () => page.evaluate(() => app.canvas.graph !== app.rootGraph));
    await alive("inside after undo");
    await show();
    await obeyed(expect, "inside after undo", 20, -15);
    await shot("undo-subgraph");
    await page.evaluate(() => app.canvas.setGraph(app.rootGraph));
    await alive("outside again");
  });
}

async function trace() {
  await test("after undo a recorded run still plays, and its choice is kept", async (expect) => {
    await page.evaluate(inside.loadTraced, traced());
    await page.waitForTimeout(500);
    await show();
    await page.evaluate(() => app.queuePrompt(0));
    await until("strip", () => panel("ShowTrace").locator("[data-count]").count(), (n) => n === 2, 120_000);
    await moveAndUndo("PlotSchedule");
    await alive("after undo");
    await until("strip after undo", () => panel("ShowTrace").locator("[data-count]").count(), (n) => n === 2);
    const at = () => panel("ShowTrace").locator("[data-count]").first().evaluate((e) => e.style.backgroundPosition), last = await at();
    await panel("ShowTrace").locator("input").fill("0");
    expect((await at()) !== last, "the slider does not change the frame");
    await changes("ShowTrace", () => panel("ShowTrace").locator("select").selectOption({ index: 2 }));
    const pick = await panel("ShowTrace").locator("select").inputValue(), kept = await page.evaluate(inside.kept, { type: "SamplingKitShowTrace" });
    expect(kept.curve === pick, `${pick} is shown, ${kept.curve} is kept`);
    await shot("undo-traced");
    await page.evaluate(() => app.graph.clear());
    await until("no panel without a node", () => page.locator(".sk").count(), (n) => n === 0);
  });
}

await eachRenderer(async () => {
  await panels();
  await copies();
  await tabs();
  await subgraph();
  await trace();
});

// The pack's widgets: which node gets which, how they are put on it, and what of them is kept in the workflow.

import { app } from "../../../scripts/app.js";
import { addColors, keepColors } from "./colors.js";
import { menuOf } from "./convert.js";
import { addStyle, sharpener } from "./dom.js";
import { editor } from "./editor.js";
import { noStep } from "./history.js";
import { infotextMenu, takeDrops } from "./infotext.js";
import { X_AXES, Y_AXES, checked, checkedReport, oneOf } from "./kept.js";
import { levels } from "./levels.js";
import { eachTick, start, watch } from "./live.js";
import { pictureOf } from "./picture.js";
import { reportOf, results, roomOf } from "./results.js";
import { table } from "./table.js";
import { trace } from "./trace.js";
import { widen } from "./width.js";
import { say, speak } from "./words.js";

const KEPT = "sampling_kit"; // in node.properties: what the user chose to see, pinned curves, values of the last run
const MOST_KEPT = 16384; // characters of the last run's values
const PAYLOADS = ["sampling_kit", "sampling_kit_trace"];

const kept = (node) => checked(node.properties?.[KEPT]);
const keep = (node, more) => { (node.properties ??= {})[KEPT] = { ...kept(node), ...more }; };
function keepOfRun(node, more) {
  keep(node, more);
  noStep(app, node, KEPT);
}
const widget = (node, name) => node.widgets?.find((w) => w.name === name);
function setWidget(node, name, value) {
  const w = widget(node, name);
  w.value = value;
  w.callback?.(value);
  node.setDirtyCanvas(true); // or the classic canvas goes on showing the old value
}
// one step for undo
function noteChange() {
  app.canvas.emitBeforeChange();
  app.canvas.emitAfterChange();
}

// A panel of our own below the widgets. It is not saved: the workflow keeps values by position.
function addPanel(node, { element, plot }, height, width = 0) {
  const panel = node.addDOMWidget("sampling_kit_panel", "sampling_kit", element, { serialize: false, hideOnZoom: !!plot, getMinHeight: () => height });
  panel.serialize = false;
  if (plot) drawFarAway(node, panel, plot, element);
  node.setSize(node.computeSize().map((least, i) => Math.max(least, node.size[i], i ? 0 : width))); // as it will be when loaded again
  element.style.minHeight = `${height - 2 * (panel.margin ?? 10)}px`; // Nodes 2.0 lay it out by this
  // what the pointer does to the canvas it also does over a panel, as over the host's own text boxes
  element.addEventListener("wheel", (event) => {
    if (globalThis.LiteGraph?.vueNodesMode) return; // there the node passes it on
    const scroll = event.target.closest?.(".sk-scroll");
    if (scroll && scroll.scrollHeight > scroll.clientHeight && !event.ctrlKey) return;
    event.preventDefault();
    app.canvas.processMouseWheel(event);
  }, { passive: false });
  for (const [type, forward] of [["pointerdown", "processMouseDown"], ["pointermove", "processMouseMove"], ["pointerup", "processMouseUp"]])
    element.addEventListener(type, (event) => { if (event.button === 1 || (type === "pointermove" && event.buttons & 4)) app.canvas[forward](event); });
  eachTick(node, () => putBack(node, element));
  return panel;
}

// Where the page hides the panel, its plot is drawn on the canvas.
function drawFarAway(owner, panel, plot, element) {
  const before = panel.draw, picture = pictureOf(plot, element);
  let seen = 0;
  eachTick(owner, () => { if (seen !== plot.version()) { seen = plot.version(); owner.setDirtyCanvas(true); } });
  panel.draw = function (context, node, width, y, height, far) {
    before?.call(this, context, node, width, y, height, far);
    const margin = this.margin ?? 10;
    if (far && (this.isVisible?.() ?? true)) picture(context, margin, y + margin, width - 2 * margin, (this.computedHeight ?? height) - 2 * margin);
  };
}

// Undo, and a graph loaded over its like, make every node anew under its old number. Nodes 2.0 then go on showing the
// element of the node that is gone: it can be dragged, but nothing reads it. The living element takes its place.
function putBack(node, element) {
  if (element.isConnected) return;
  const stale = document.querySelector(`[data-node-id="${node.id}"] .sk`);
  stale?.replaceWith(element);
}

// What of a node is seen, from its widgets where it has them, else from its properties.
function viewOf(node, pins) {
  const usual = { y: "log_sigma", x: "step", pins: pins ? [] : null }, view = {}, choices = { y: Y_AXES, x: X_AXES };
  for (const name of Object.keys(usual))
    Object.defineProperty(view, name, {
      get: () => oneOf(choices[name] ?? [], widget(node, name)?.value) ?? kept(node)[name] ?? usual[name],
      set(value) {
        if (widget(node, name)) setWidget(node, name, value);
        else keep(node, { [name]: value });
        noteChange();
      },
    });
  return view;
}

// Shows what the route says; where only a run can tell, the values of the last one. Returns a function that asks at once.
function livePanel(node, panel) {
  let told = {};
  const show = () => {
    const { last } = kept(node);
    if (told.error) panel.show(told, told.error, "error");
    else if (told.missing) panel.show(told, say("Connect {}.", told.missing));
    else if (told.remembered && !told.unknown) panel.show(told, say("With the noise schedule of the last run of “{}”.", told.remembered));
    else if (!told.unknown) panel.show(told);
    else if (last) panel.show({ ...told, ...last }, say("Values of the last run; “{}” is known only then.", told.unknown));
    else panel.show(told, say("“{}” is known only after a run.", told.unknown));
  };
  after(node, (result) => {
    if (!told.unknown) return;
    const small = JSON.stringify(result).length <= MOST_KEPT;
    keepOfRun(node, { last: small ? result : undefined });
    if (small) show();
    else panel.show(result);
  });
  return watch(node, panel.sync ?? (() => {}), (answer) => { told = answer; show(); });
}

// act on what a run tells, at once and when a finished run is opened from the history
const readers = new WeakMap(); // node -> {pick: what of the node's output counts, act}
function after(node, act, pick = payloadOf) {
  readers.set(node, { act, pick });
  const before = node.onExecuted;
  node.onExecuted = function (output) {
    before?.call(this, output);
    read(node, output);
  };
}

function payloadOf(output) {
  const payload = PAYLOADS.map((key) => output?.[key]?.[0]).find(Boolean);
  return typeof payload === "string" ? JSON.parse(payload) : payload;
}

function read(node, output) {
  const reader = readers.get(node), payload = reader && output ? reader.pick(output) : null;
  if (payload) reader.act(payload);
}

// A recorded run is too large for a workflow: it stays in the browser's tab, under a name kept in the node.
const SHELF = "sampling_kit.trace.";
function shelve(node, payload) {
  const name = Date.now().toString(36) + Math.random().toString(36).slice(2, 8);
  keepOfRun(node, { run: name });
  for (let tries = 0; tries < 200; tries++) {
    try { return sessionStorage.setItem(SHELF + name, JSON.stringify(payload)); } catch { // full: the oldest goes
      const oldest = Object.keys(sessionStorage).filter((key) => key.startsWith(SHELF)).sort()[0];
      if (!oldest) return;
      sessionStorage.removeItem(oldest);
    }
  }
}
function shelved(node) {
  try { return JSON.parse(sessionStorage.getItem(SHELF + kept(node).run)); } catch { return null; }
}

// Shows the payloads of runs, and the last one again where the node is made anew.
function shelfPanel(node, show, pick) {
  let name, text = "null";
  const nameOf = () => node.properties?.[KEPT]?.run;
  after(node, (payload) => {
    const next = JSON.stringify(payload);
    if (next === text && name === nameOf()) return; // the page tells the same run again and again
    shelve(node, payload);
    [name, text] = [nameOf(), next];
    show(payload);
  }, pick);
  eachTick(node, () => {
    if (name === nameOf()) return;
    name = nameOf();
    const payload = shelved(node);
    text = JSON.stringify(payload);
    show(payload);
  });
  show(null);
}

function reportPanel(node, { width, height }) {
  const panel = results();
  addPanel(node, panel, height, width);
  shelfPanel(node, (payload) => panel.show(checkedReport(payload)), (output) => checkedReport(reportOf(output)));
}

// The name of the noise schedule that a run of the node told, for the route: nodes/ui/remembered.py.
const SCHEDULED = new Set(["SamplingKitNoiseScheduleFromModel", "SamplingKitLoadDiffusersDenoiser"]);
function rememberSchedule(node) {
  const before = node.onExecuted;
  node.onExecuted = function (output) {
    before?.call(this, output);
    const name = output?.sampling_kit_schedule?.[0];
    if (name && name !== this.properties?.[KEPT]?.schedule) keepOfRun(this, { schedule: name });
  };
}

// Which solver and levels Sample's last run took, and for which settings: "Take apart" asks for it.
function rememberSolver(node) {
  const before = node.onExecuted;
  node.onExecuted = function (output) {
    before?.call(this, output);
    const solver = output?.sampling_kit_solver?.[0];
    const typed = Object.fromEntries(["steps", "cfg", "denoise"].map((name) => [name, widget(this, name)?.value]));
    if (solver) keepOfRun(this, { took: { solver, levels: output?.sampling_kit_levels?.[0], ...typed } });
  };
}

const WIDGETS = {
  SamplingKitSteps(node) {
    const panel = levels(viewOf(node, true));
    addPanel(node, panel, 170);
    livePanel(node, panel);
  },
  SamplingKitPlotSchedule(node) {
    const panel = levels(viewOf(node, false));
    addPanel(node, panel, 220);
    livePanel(node, panel);
  },
  SamplingKitScheduleEditor(node) {
    const panel = editor({
      get: () => widget(node, "curve")?.value ?? "",
      set: (text) => { setWidget(node, "curve", text); ask(); },
      done: noteChange,
    });
    addPanel(node, panel, 220);
    const ask = livePanel(node, panel);
  },
  SamplingKitSolverTable(node) {
    const panel = table();
    addPanel(node, panel, 200);
    livePanel(node, panel);
  },
  SamplingKitShowTrace(node) {
    const panel = trace({ get curve() { return kept(node).curve; }, set curve(curve) { keep(node, { curve }); noteChange(); } });
    addPanel(node, panel, 330);
    shelfPanel(node, (payload) => panel.show(payload, say("The run is shown here after it was made.")));
  },
};

app.registerExtension({
  name: "SamplingKit.Widgets",
  settings: [{ // read when ComfyUI starts: nodes/host/comfy/offered.py
    id: "SamplingKit.KSamplerLists", category: ["Sampling Kit", "KSampler", "lists"], type: "boolean", defaultValue: false,
    name: "Offer the kit's solvers in KSampler's lists, as sampling_kit_…",
    tooltip: "For nodes that take a sampler by its name. Acts when ComfyUI starts again. A workflow that uses such a name needs the setting.",
  }],
  init() {
    speak(app.extensionManager.setting.get("Comfy.Locale"));
  },
  setup() {
    addStyle();
    addColors();
    const sharpen = sharpener(() => app.canvas?.ds?.scale ?? 1);
    start(() => { keepColors(app.canvas); sharpen(); });
  },
  nodeCreated(node) {
    const room = roomOf(node.constructor?.nodeData);
    if (WIDGETS[node.comfyClass]) WIDGETS[node.comfyClass](node);
    else if (room) reportPanel(node, room);
    if (SCHEDULED.has(node.comfyClass)) rememberSchedule(node);
    if (node.comfyClass === "SamplingKitSample") rememberSolver(node);
    takeDrops(node);
    if (node.comfyClass?.startsWith("SamplingKit")) widen(node);
  },
  getNodeMenuItems: (node) => [...menuOf(node, (one) => kept(one).took), ...infotextMenu(node)],
  onNodeOutputsUpdated(outputs) {
    for (const graph of [app.rootGraph, ...(app.rootGraph.subgraphs?.values() ?? [])])
      for (const node of graph.nodes) read(node, outputs[graph === app.rootGraph ? node.id : `${graph.id}:${node.id}`]);
  },
});

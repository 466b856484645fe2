// Menu entries: a KSampler becomes Sample, and Sample the nodes that it stands for. Links and values stay; what has no counterpart is said.

import { app } from "../../../scripts/app.js";
import { growInOneStep } from "./history.js";
import { atOnce, connect, feed, hand, linkOf, makeRoom, place, setValue, slotOf, widgetOf } from "./rewire.js";
import { say } from "./words.js";

const SAMPLE = "SamplingKitSample", KSAMPLERS = ["KSampler", "KSamplerAdvanced"], AUTO = "auto";
const SEED = { KSampler: "seed", KSamplerAdvanced: "noise_seed" };
const SKIPS = ["dpm_2", "dpm_2_ancestral", "uni_pc", "uni_pc_bh2"]; // KSampler leaves out the last level but one with these
const GAP = 40;
const roomOf = (node) => node.size[1] + GAP + 42 + 4 * (node.widgets?.length ?? 0); // with its title; Nodes 2.0 are taller

const valueOf = (node, name) => widgetOf(node, name)?.value;
const linked = (node, name) => linkOf(node, name) !== undefined;

// nodes/ui/foreign_names.py, in the definition of Sample's solver
function names() {
  const { required, optional } = globalThis.LiteGraph.registered_node_types[SAMPLE].nodeData.input;
  return { ...required, ...optional }.solver[1].sampling_kit;
}

// Why a node stays as it is; "" where it can become Sample.
function obstacle(node) {
  const fixed = ["sampler_name", "scheduler", "add_noise", "start_at_step", "end_at_step", "return_with_leftover_noise"].find((name) => linked(node, name));
  if (fixed) return say("“{}” is connected; Sample has no such input.", fixed);
  if (valueOf(node, "denoise") === 0) return say("With denoise 0 there is no step to take.");
  if (node.type === "KSampler") return "";
  if (valueOf(node, "add_noise") !== "enable") return say("It goes on with a latent that is noisy already; Sample always adds noise.");
  if (part(node).last && valueOf(node, "return_with_leftover_noise") !== "enable") return say("It stops early and jumps to the end; Sample has no such step.");
  return "";
}

// which of its steps a KSamplerAdvanced takes: {first: or 0, last: or 0 for the end}
function part(node) {
  const steps = valueOf(node, "steps"), end = valueOf(node, "end_at_step");
  return { first: valueOf(node, "start_at_step") ?? 0, last: end === undefined || end >= steps ? 0 : end };
}

function toSample(node) {
  const { graph } = node, [x, y] = node.pos, [w, h] = node.size, told = [], table = names();
  const made = place(graph, SAMPLE, [x, y]);
  dress(made, node);
  for (const name of ["steps", "cfg", "denoise", "control_after_generate"]) setValue(made, name, valueOf(node, name));
  setValue(made, "seed", valueOf(node, SEED[node.type]));
  for (const name of ["model", "positive", "negative", "latent_image", "steps", "cfg", "denoise"]) feed(linkOf(node, name), made, name);
  feed(linkOf(node, SEED[node.type]), made, "seed");
  const below = [x, y + made.size[1] + GAP + 30], beside = [takeSampler(node, made, table, below, told), ...takeLevels(node, made, table, below, told)].filter(Boolean);
  hand(node, 0, made, 0);
  graph.remove(node);
  let high = roomOf(made);
  for (const other of beside) {
    other.pos = [x, y + high];
    high += roomOf(other);
  }
  makeRoom(graph, [x, y, w, h], made.size[0], high, [made, ...beside]);
  told.push(say("Images of a batch after the first come out others: image i has seed + i."));
  return { made, told };
}

// solver by its name there, else ComfyUI's own SAMPLER
function takeSampler(node, made, table, at, told) {
  const name = valueOf(node, "sampler_name"), [solver, differs] = table.samplers[name] ?? [];
  if (solver) {
    setValue(made, "solver", solver);
    if (differs) told.push(say("{}: {} comes next; {}.", name, solver, differs));
    if (SKIPS.includes(name)) told.push(say("{}: KSampler leaves out the last noise level but one with it, Sample does not.", name));
    return null;
  }
  const select = place(made.graph, "KSamplerSelect", at, { sampler_name: name });
  if (select) connect(select, 0, made, "sampler");
  told.push(say("{}: no solver of the kit is this one; ComfyUI's own is connected.", name));
  return select;
}

// spacing where one has the same levels, else ComfyUI's own SIGMAS
function takeLevels(node, made, table, at, told) {
  const name = valueOf(node, "scheduler"), { first, last } = part(node), spacing = table.spacings[name];
  if (spacing && !first && !last) {
    setValue(made, "spacing", spacing);
    return [];
  }
  const basic = place(made.graph, "BasicScheduler", at, { scheduler: name, steps: valueOf(node, "steps"), denoise: valueOf(node, "denoise") ?? 1 });
  if (!basic) return [];
  for (const input of ["model", "steps", "denoise"]) feed(linkOf(node, input), basic, input);
  told.push(say("{}: ComfyUI's own noise levels are connected; steps and denoise are BasicScheduler's.", name));
  const cuts = [[last, 0], [first, 1]].filter(([step]) => step > 0); // the end first: its number counts from the run's beginning
  let from = basic, output = 0;
  const beside = [basic];
  for (const [step, side] of cuts) {
    const split = place(made.graph, "SplitSigmas", at, { step });
    connect(from, output, split, "sigmas");
    [from, output] = [split, side];
    beside.push(split);
  }
  connect(from, output, made, "sigmas");
  return beside;
}

function dress(made, node) {
  if (node.title && node.title !== node.constructor.title && node.title !== node.constructor.nodeData?.display_name) made.title = node.title;
  for (const name of ["color", "bgcolor", "mode"]) if (node[name] !== undefined) made[name] = node[name];
}

// ------------------------------------------------------------------------------------- apart

// The solver's name where Sample says auto: that of its last run, with the same number of steps. "" where there is none.
function solverOf(node, last) {
  const name = valueOf(node, "solver");
  if (name !== AUTO || linked(node, "sampler") || linked(node, "fit")) return name;
  return isOf(node, last) ? last.solver : "";
}

// whether a run was with the settings that the node has now
function isOf(node, last) {
  return ["steps", "cfg", "denoise"].every((name) => last?.[name] === valueOf(node, name));
}

function stays(node, last) {
  const fixed = ["solver", "spacing"].find((name) => linked(node, name));
  if (fixed) return say("“{}” is connected; no other node has such an input.", fixed);
  return solverOf(node, last) === "" ? say("Which solver “auto” takes is known after a run: run it once with these steps.") : "";
}

function apart(node, last) {
  const { graph } = node, [x, y] = node.pos, table = names(), parts = [], told = [];
  const add = (column, type, values = {}) => {
    const made = place(graph, type, [x, y], values);
    parts.push({ made, column });
    return made;
  };
  const widget = (from, name, to, as = name) => { // a value, or the link in its place
    setValue(to, as, valueOf(node, name));
    feed(linkOf(node, name), to, as);
  };
  const sampler = add(3, "SamplerCustomAdvanced"), noise = add(2, "SamplingKitPerImageNoise");
  widget(node, "seed", noise);
  setValue(noise, "control_after_generate", valueOf(node, "control_after_generate"));
  connect(noise, 0, sampler, "noise");
  const guider = guided(node, add, widget);
  connect(guider, 0, sampler, "guider");
  feed(linkOf(node, "latent_image"), sampler, "latent_image");
  if (linked(node, "fit")) {
    const fitted = add(2, "SamplingKitFittedSolver");
    feed(linkOf(node, "fit"), fitted, "fit");
    connect(guider, 0, fitted, "guider");
    connect(fitted, 0, sampler, "sampler");
    connect(fitted, 1, sampler, "sigmas");
  } else {
    if (linked(node, "sampler")) feed(linkOf(node, "sampler"), sampler, "sampler");
    else connect(add(1, ...table.nodes[solverOf(node, last)]), 0, sampler, "sampler");
    if (linked(node, "sigmas")) feed(linkOf(node, "sigmas"), sampler, "sigmas");
    else connect(levels(node, add, widget, last), 0, sampler, "sigmas");
  }
  dress(sampler, node);
  hand(node, 0, sampler, 0);
  if (node.outputs?.[1]?.links?.length) told.push(say("The report has no counterpart; its links are gone."));
  graph.remove(node);
  arrange(graph, node, parts);
  return { made: parts.map(({ made }) => made), told };
}

function guided(node, add, widget) {
  const guider = add(2, "SamplingKitGuider");
  for (const name of ["model", "positive", "negative", "guidance"]) feed(linkOf(node, name), guider, name);
  if (!linked(node, "guidance") && (valueOf(node, "cfg") !== 1 || linked(node, "cfg"))) {
    const cfg = add(1, "SamplingKitCFG");
    widget(node, "cfg", cfg, "scale");
    connect(cfg, 0, guider, "guidance");
  }
  return guider;
}

function levels(node, add, widget, last) {
  const written = valueOf(node, "spacing") === AUTO && isOf(node, last) && last.levels; // what "auto" chose, by the run's guidance
  const schedule = add(0, "SamplingKitNoiseScheduleFromModel");
  const steps = add(1, "SamplingKitSteps", written ? { spacing: "explicit", "spacing.values": written } : {});
  feed(linkOf(node, "model"), schedule, "model");
  connect(schedule, 0, steps, "noise_schedule");
  for (const name of written ? ["steps"] : ["spacing", "steps", "denoise"]) widget(node, name, steps);
  feed(linkOf(node, "latent_image"), steps, "latent");
  return steps;
}

// columns from the place of the node on; what was there moves on
function arrange(graph, node, parts) {
  let wide = 0, high = 0;
  for (const column of [0, 1, 2, 3]) {
    const here = parts.filter((p) => p.column === column).map(({ made }) => made);
    let y = node.pos[1];
    for (const made of here) {
      made.pos = [node.pos[0] + wide, y];
      y += roomOf(made);
    }
    high = Math.max(high, y - node.pos[1] - GAP);
    if (here.length) wide += Math.max(...here.map((made) => made.size[0])) + GAP;
  }
  makeRoom(graph, [...node.pos, ...node.size], wide - GAP, high, parts.map(({ made }) => made));
}

// ------------------------------------------------------------------------------------- the menu

function tell(title, lines, severity = "info") {
  if (lines.length) app.extensionManager.toast.add({ severity, summary: title, detail: lines.join("\n"), life: 15_000 });
}

// The nodes of a kind that are selected with this one, or this one.
function meant(node, types) {
  const selected = [...(app.canvas.selectedItems ?? [])].filter((item) => types.includes(item?.type));
  return selected.includes(node) ? selected : [node];
}

function each(node, types, title, refused, act) {
  const made = [], lines = [];
  atOnce(app.canvas, () => {
    for (const one of meant(node, types)) {
      const why = refused(one);
      if (why) { tell(say("{} stays", one.title), [why], "warn"); continue; }
      const { made: nodes, told } = act(one);
      made.push(nodes);
      lines.push(...told);
    }
  });
  growInOneStep(app, made.flat());
  if (made.length) app.canvas.selectItems?.(made.flat());
  tell(title, [...new Set(lines)]);
}

// entries for a node's menu; lastOf(node): {solver, steps} of its last run, or undefined
export function menuOf(node, lastOf) {
  if (KSAMPLERS.includes(node.type) && globalThis.LiteGraph.registered_node_types[SAMPLE])
    return [{ content: say("Convert to Sampling Kit Sample"), callback: () => each(node, KSAMPLERS, say("Sample in place of KSampler"), obstacle, toSample) }];
  if (node.type === SAMPLE && slotOf(node, "model") >= 0)
    return [{ content: say("Take apart"), callback: () => each(node, [SAMPLE], say("Sample in its parts"), (one) => stays(one, lastOf(one)), (one) => apart(one, lastOf(one))) }];
  return [];
}

// Noise levels of one or more runs: Steps, Plot Schedule.

import { chart } from "./chart.js";
import { choice, copyButton, el, short } from "./dom.js";
import { MOST_PINNED, MOST_PINS } from "./kept.js";
import { say } from "./words.js";

const Y = {
  log_sigma: ["log σ", "σ on a logarithmic scale"],
  sigma: ["σ", "σ, as in SIGMAS"],
  lambda: ["λ", "λ = log(α/σ), half the log signal-to-noise ratio"],
  timestep: ["t", "The timestep the network is told"],
};
const X = { step: ["step", "Against the number of the step"], progress: ["0–1", "Against progress through the run"] };

export const color = (i) => `var(--sk-${i % 8})`;
export const valuesOf = (run, y) => run[y === "log_sigma" ? "sigma" : y];

// x of the levels kept of a run: every `every`-th and the last
export function positions(run, x) {
  const at = run.sigma.map((_, i) => Math.min(i * run.every, run.steps));
  return x === "progress" ? at.map((i) => i / Math.max(run.steps, 1)) : at;
}

export function asText(runs, y) {
  return runs.map((run) => (valuesOf(run, y) ?? []).filter((v) => v !== null).join(", ")).join("\n");
}

export const stepOf = (run, i) => say("step {}", Math.min(i * run.every, run.steps));

// all that is known of a level, a line each
export function facts(run, i) {
  const known = [["σ", run.sigma], ["λ", run.lambda], ["t", run.timestep]].filter(([, values]) => values);
  return known.map(([name, values]) => `${name} ${short(values[i])}`).join("\n");
}

// view: {y, x, pins: runs, or null where there is no pinning}; what is set there is kept
export function levels(view) {
  let runs = [];
  const plot = chart({ label: "Noise levels" }), note = el("div", { class: "sk-note", role: "status" }), legend = el("div", { class: "sk-legend" });
  const ys = choice("vertical axis", Y, () => view.y, (y) => { view.y = y; draw(); });
  const xs = choice("horizontal axis", X, () => view.x, (x) => { view.x = x; draw(); });
  const pin = el("button", { type: "button", title: say("Keep this curve to compare others with"), onclick: pinned }, say("pin"));
  const bar = el("div", { class: "sk-bar" }, ys.element, xs.element, el("span", { class: "sk-push" }), view.pins ? pin : null, copyButton(() => asText(runs, view.y)));
  const element = el("div", { class: "sk" }, bar, plot.element, legend, note);

  function pinned() {
    const room = view.pins.length < MOST_PINS && runs.length;
    view.pins = room ? [...view.pins, ...runs.filter((r) => r.sigma.length <= MOST_PINNED)] : [];
    draw();
  }

  function draw() {
    const pins = view.pins ?? [], all = [...runs, ...pins];
    pin.textContent = pins.length >= MOST_PINS || (pins.length && !runs.length) ? say("unpin") : say("pin");
    ys.press();
    xs.press();
    const series = all.map((run, i) => ({ run, x: positions(run, view.x), y: valuesOf(run, view.y), color: color(i), faint: i >= runs.length }));
    plot.show({
      series, log: view.y === "log_sigma", fade: { log_sigma: "down", lambda: "up" }[view.y], head: (i, s) => stepOf(s.run, i),
      tip: (i, s, many) => (many ? `${short(s.y[i])}  ${s.run.name}` : facts(s.run, i)),
    });
    const entry = (s) => el("span", {}, el("i", { style: `background:${s.color}` }), s.faint ? say("pinned: {}", s.run.name) : s.run.name);
    legend.replaceChildren(...(all.length > 1 ? series.map(entry) : []));
    if (runs.length && series.every((s) => !s.y)) tell(say("This needs a noise schedule: connect noise_schedule."));
    else if (note.dataset.kind === "axis") tell("");
    function tell(text) { note.dataset.kind = "axis"; note.textContent = text; }
  }

  return {
    element,
    plot: plot.plot,
    get runs() { return runs; },
    show(told, text = "", kind = "") {
      runs = told?.runs ?? [];
      note.dataset.kind = kind;
      note.textContent = text;
      draw();
    },
  };
}

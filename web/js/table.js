// The plan of a solver: rows are stages, columns the weights of x, of the history of D, and of noise.

import { copyButton, el, short } from "./dom.js";
import { say } from "./words.js";

const WEIGHT = /^(x|D)\[|^noise$/;
const NAMES = { noise: "z", stage: "#" };
const HIDDEN = new Set(["path α", "path σ", "commit", "evaluate"]);

// share of the strongest shade a weight gets, by size; small weights stay visible
export const shade = (value, largest) => (value ? Math.round(45 * Math.sqrt(Math.min(Math.abs(value) / largest, 1))) : 0);

export const markdown = ({ columns, rows }) =>
  [columns, columns.map(() => "---"), ...rows.map((row) => row.map((v) => v ?? ""))].map((line) => `| ${line.join(" | ")} |`).join("\n");

export function table() {
  let plan = null;
  const facts = el("span"), note = el("div", { class: "sk-note", role: "status" });
  const scroll = el("div", { class: "sk-scroll", tabindex: 0, "data-capture-wheel": "true", role: "region", "aria-label": say("Plan") });
  const bar = el("div", { class: "sk-bar" }, facts, el("span", { class: "sk-push" }), copyButton(() => (plan ? markdown(plan) : "")));
  const element = el("div", { class: "sk" }, bar, scroll, note);

  function draw() {
    const { columns, rows } = plan, at = Object.fromEntries(columns.map((name, i) => [name, i]));
    const shown = columns.map((name, i) => ({ name, i, weight: WEIGHT.test(name) })).filter(({ name, i }) => !HIDDEN.has(name) && (name !== "noise" || rows.some((r) => r[i])));
    const largest = Math.max(1e-12, ...rows.flatMap((row) => shown.map(({ i, weight }) => (weight ? Math.abs(row[i] ?? 0) : 0))));
    const cell = (row, { i, name, weight }) => {
      const share = weight ? shade(row[i], largest) : 0, back = row[i] < 0 ? "--sk-1" : "--sk-0";
      const style = share ? `color:var(--sk-7);background:color-mix(in srgb, var(${back}) ${share}%, transparent)` : undefined;
      const title = weight && row[i] !== null ? `${name} = ${row[i]}` : undefined;
      return el("td", { style, title }, row[i] === null ? "" : short(row[i]));
    };
    const asks = (row) => el("td", { title: row[at.evaluate] ? say("D is evaluated here") : say("no evaluation") }, row[at.evaluate] ? "●" : "");
    let step = -1;
    const body = rows.map((row) => {
      const first = row[at.step] !== step;
      step = row[at.step];
      return el("tr", { class: first ? "sk-step" : undefined }, ...shown.map((c) => cell(row, c)), asks(row));
    });
    const head = el("tr", {}, ...shown.map(({ name }) => el("th", { scope: "col" }, NAMES[name] ?? name)), el("th", { scope: "col", title: say("D is evaluated here") }, "NFE"));
    scroll.replaceChildren(el("table", {}, el("thead", {}, head), el("tbody", {}, ...body)));
    facts.textContent = say("NFE {} · order {} · {} steps · on {}", plan.nfe, plan.order, plan.steps, plan.path);
    facts.title = plan.solver;
    if (plan.stages > rows.length) note.textContent += say("The first {} of {} stages.", rows.length, plan.stages);
  }

  return {
    element,
    show(told, text = "", kind = "") {
      plan = told?.plan ?? null;
      note.dataset.kind = kind;
      note.textContent = text;
      if (plan) draw();
      else { scroll.replaceChildren(); facts.textContent = ""; }
    },
  };
}

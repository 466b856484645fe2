// The curve of Schedule Editor: handles that the mouse and the keyboard move, and the text they write.

import { copyButton, el, short, showTip, svg } from "./dom.js";
import { asText, facts, positions, stepOf } from "./levels.js";
import { format, insert, move, parse, remove } from "./curve.js";
import { sizeOf } from "./picture.js";
import { say } from "./words.js";

const LEFT = 26, RIGHT = 10, TOP = 9, BOTTOM = 18;
const STEP = 0.01, LEAP = 0.05;
const START = "0:1, 0.5:0.5, 1:0";

// text: {get, set(text), done()}: the node's text; done: a change is finished (one undo step)
export function editor(text) {
  const area = el("div", { class: "sk-area", style: "overflow:visible" });
  const drawing = svg("svg", { role: "group", "aria-label": say("Curve: height of the noise level against progress through the run") });
  const tip = el("div", { class: "sk-tip", hidden: true, role: "status" }), note = el("div", { class: "sk-note", role: "status" });
  const button = (label, title, act) => el("button", { type: "button", title, onclick: act }, label);
  const bar = el("div", { class: "sk-bar" },
    button("+", say("Add a point after the selected one (double click on the plot, or Enter)"), () => add()),
    button("−", say("Remove the selected point (Delete)"), () => drop()),
    button(say("reset"), say("A straight line"), () => write(parse(START), 1, true)),
    el("span", { class: "sk-push" }), copyButton(() => asText(told.runs ?? [], "sigma")));
  const element = el("div", { class: "sk" }, bar, area, note);
  area.append(drawing, tip);
  let told = {}, points = parse(text.get()), selected = 0, dragged = null, written = null, version = 0;

  const size = sizeOf(area);
  let box = [0, 0]; // of the curve, measured once for a drawing: to ask between changes of the page lays it out anew each time
  const measure = () => { const [w, h] = size(); box = [w - LEFT - RIGHT, h - TOP - BOTTOM]; };
  const place = ([u, v]) => [LEFT + u * box[0], TOP + (1 - v) * box[1]];
  function under(event) {
    measure();
    const rect = drawing.getBoundingClientRect(), [w, h] = box;
    const x = (event.clientX - rect.left) * area.clientWidth / rect.width, y = (event.clientY - rect.top) * area.clientHeight / rect.height;
    return [(x - LEFT) / w, 1 - (y - TOP) / h];
  }

  function write(next, i, finished) {
    points = next;
    selected = i;
    written = format(points);
    text.set(written);
    draw();
    if (finished) text.done();
  }

  function add(u, v) {
    if (!points) return;
    const i = Math.min(selected, points.length - 2), [a, b] = [points[i], points[i + 1]];
    const next = insert(points, u ?? (a[0] + b[0]) / 2, v ?? (a[1] + b[1]) / 2);
    if (next === points) return;
    write(next, next.findIndex((p) => !points.some((q) => q[0] === p[0] && q[1] === p[1])), true);
    focus();
  }

  function drop(i = selected) {
    if (points && remove(points, i) !== points) { write(remove(points, i), i - 1, true); focus(); }
  }

  const focus = () => drawing.querySelectorAll(".sk-handle")[selected]?.focus();

  function key(event, i) {
    const by = event.shiftKey ? LEAP : STEP, [u, v] = points[i];
    const moved = { ArrowUp: [u, v + by], ArrowDown: [u, v - by], ArrowLeft: [u - by, v], ArrowRight: [u + by, v], PageUp: [u, v + LEAP], PageDown: [u, v - LEAP] }[event.key];
    if (moved) write(move(points, i, ...moved), i, true);
    else if (event.key === "Delete" || event.key === "Backspace") drop(i);
    else if (event.key === "Enter" || event.key === "Insert" || event.key === "+") { selected = i; add(); }
    else return;
    event.preventDefault();
    event.stopPropagation(); // or the canvas deletes the node
    focus();
  }

  function handle(i) {
    const [u, v] = points[i], [cx, cy] = place(points[i]);
    return svg("circle", {
      class: "sk-handle", cx, cy, r: 6, fill: i === selected ? "var(--sk-1)" : "var(--sk-0)", tabindex: 0, role: "slider",
      "aria-label": say("point {} of {}", i + 1, points.length), "aria-orientation": "vertical", "aria-valuemin": 0, "aria-valuemax": 1,
      "aria-valuenow": v, "aria-valuetext": say("height {} at progress {}", v, u),
      onkeydown: (event) => key(event, i),
      onfocus: () => { if (selected !== i) { selected = i; drawing.querySelectorAll(".sk-handle").forEach((h, j) => h.setAttribute("fill", j === i ? "var(--sk-1)" : "var(--sk-0)")); } },
      onpointerdown: (event) => { if (event.button === 0) grab(event, i); },
    });
  }

  // the drawing, not the handle, follows the pointer: handles are drawn anew with every move
  function grab(event, i) {
    dragged = i;
    selected = i;
    drawing.setPointerCapture(event.pointerId);
    event.preventDefault();
    draw();
    focus();
  }
  drawing.addEventListener("pointermove", (event) => {
    if (dragged !== null) write(move(points, dragged, ...under(event)), dragged, false);
    else hover(event);
  });
  for (const end of ["pointerup", "pointercancel"]) drawing.addEventListener(end, () => { if (dragged !== null) { dragged = null; text.done(); } });
  drawing.addEventListener("pointerleave", () => { tip.hidden = true; });
  drawing.addEventListener("dblclick", (event) => { event.stopPropagation(); if (!event.target.classList.contains("sk-handle")) add(...under(event)); });

  // levels lie on the curve at even progress from the first to the last but the final 0
  function dots() {
    const run = told.runs?.[0];
    if (!run || !told.curve) return [];
    const count = run.sigma.at(-1) === 0 ? run.steps : run.steps + 1;
    return positions(run, "step").filter((i) => i < count).map((i) => {
      const u = count > 1 ? i / (count - 1) : 0, k = Math.min(u * (told.curve.length - 1), told.curve.length - 1), low = Math.floor(k);
      return [u, told.curve[low] + (k - low) * ((told.curve[low + 1] ?? told.curve[low]) - told.curve[low])];
    });
  }

  function hover(event) {
    const run = told.runs?.[0], there = dots();
    if (!run || !there.length) return;
    const u = under(event)[0], i = there.reduce((best, p, j) => (Math.abs(p[0] - u) < Math.abs(there[best][0] - u) ? j : best), 0);
    const [x, y] = place(there[i]);
    showTip(tip, `${stepOf(run, i)}\n${facts(run, i)}`, x, Math.max(2, Math.min(y - 30, area.clientHeight - 68)), area.clientWidth);
  }

  function draw() {
    const focused = drawing.contains(document.activeElement);
    measure();
    drawing.replaceChildren();
    version++;
    for (const t of [0, 0.25, 0.5, 0.75, 1]) {
      const [x, y] = place([t, t]), [w, h] = box;
      drawing.append(svg("line", { class: "sk-grid", x1: LEFT, x2: LEFT + w, y1: y, y2: y }), svg("line", { class: "sk-grid", x1: x, x2: x, y1: TOP, y2: TOP + h }));
      if (t * 2 % 1 === 0) drawing.append(svg("text", { x: LEFT - 10, y: y + 3.5, "text-anchor": "end" }, String(t)), svg("text", { x, y: TOP + h + 15, "text-anchor": "middle" }, t === 0.5 ? say("progress") : String(t)));
    }
    if (told.curve) {
      const path = told.curve.map((v, i) => place([i / (told.curve.length - 1), v]).map((n) => n.toFixed(1)).join(","));
      drawing.append(svg("path", { d: `M${path.join("L")}`, fill: "none", stroke: "var(--sk-0)", "stroke-width": 2 }));
      const levels = dots();
      if (levels.length <= 128) for (const p of levels) { const [cx, cy] = place(p); drawing.append(svg("circle", { cx, cy, r: 2.4, fill: "var(--sk-2)" })); }
    }
    if (points) for (let i = 0; i < points.length; i++) drawing.append(handle(i));
    if (focused) focus();
  }

  new ResizeObserver(draw).observe(area);
  return {
    element,
    plot: { drawing, size, draw, version: () => version },
    // the text was changed by someone else
    sync() {
      if (dragged !== null || text.get() === written) return;
      written = text.get();
      points = parse(written);
      selected = Math.min(selected, (points?.length ?? 1) - 1);
      draw();
    },
    show(next, words = "", kind = "") {
      told = { ...next, curve: next?.curve ?? (kind === "error" ? undefined : told.curve) };
      const run = told.runs?.[0];
      note.dataset.kind = kind;
      note.textContent = words || (run ? say("σ from {} to {} in {} steps", short(run.sigma[0]), short(run.sigma.at(-1)), run.steps) : "");
      draw();
    },
  };
}

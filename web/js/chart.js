// Lines over a common x axis, as SVG: ticks, values on hover or with the arrow keys. Redrawn when its size changes.

import { el, short, showTip, svg } from "./dom.js";
import { sizeOf } from "./picture.js";
import { nearest, scale } from "./scale.js";
import { say } from "./words.js";

const LEFT = 38, RIGHT = 8, TOP = 7, BOTTOM = 17, DOTS = 64;

// show({series: [{x, y, color, faint}], log, fade: "up" | "down", head(i, series), tip(i, series, many)}): head and tip are
// lines of text about point i; fade: where a line goes whose last level has no value. picked(i): the reader is at point i
export function chart({ label, picked = () => {} }) {
  const area = el("div", { class: "sk-area" });
  const drawing = svg("svg", { tabindex: 0, role: "img", "aria-label": say(label) });
  const tip = el("div", { class: "sk-tip", hidden: true, role: "status" });
  area.append(drawing, tip);
  let data = { series: [] }, at = null, box = null, version = 0;

  const size = sizeOf(area);
  const px = (x) => LEFT + box.x.at(x) * (box.width - LEFT - RIGHT);
  const py = (y) => TOP + (1 - box.y.at(y)) * (box.height - TOP - BOTTOM);

  function draw() {
    const [width, height] = size(), shown = data.series.filter((s) => s.y);
    version++;
    drawing.replaceChildren();
    const x = scale(shown.flatMap((s) => s.x), false, Math.max(2, Math.round(width / 70)));
    const y = scale(shown.flatMap((s) => s.y), data.log, Math.max(2, Math.round(height / 35)));
    box = x && y && width > 0 && height > 0 ? { x, y, width, height } : null;
    if (!box) return hide();
    for (const t of y.ticks) {
      drawing.append(svg("line", { class: "sk-grid", x1: LEFT, x2: width - RIGHT, y1: py(t), y2: py(t) }));
      drawing.append(svg("text", { x: LEFT - 4, y: py(t) + 3.5, "text-anchor": "end" }, short(t)));
    }
    for (const t of x.ticks) drawing.append(svg("text", { x: px(t), y: height - 5, "text-anchor": "middle" }, short(t)));
    for (const s of shown) line(s);
    if (at !== null) point(at);
  }

  // a line breaks where a value is missing; the way to a last level without a value (λ, log σ of 0) is dashed
  function line({ x, y, color, faint }) {
    const there = (i) => y[i] !== null && (!data.log || y[i] > 0), style = { fill: "none", stroke: color, "stroke-width": faint ? 1.5 : 2, opacity: faint ? 0.75 : 1 };
    let d = "";
    y.forEach((v, i) => { if (there(i)) d += `${i && there(i - 1) ? "L" : "M"}${px(x[i]).toFixed(1)},${py(v).toFixed(1)}`; });
    drawing.append(svg("path", { ...style, d }));
    const last = y.length - 1;
    const edge = { up: TOP, down: box.height - BOTTOM }[data.fade];
    if (edge && last > 0 && !there(last) && there(last - 1)) drawing.append(svg("path", { ...style, "stroke-dasharray": "2 3", d: `M${px(x[last - 1])},${py(y[last - 1])}L${px(x[last])},${edge}` }));
    if (y.length <= DOTS && !faint) y.forEach((v, i) => { if (there(i)) drawing.append(svg("circle", { cx: px(x[i]), cy: py(v), r: y.length > 30 ? 1.8 : 2.6, fill: color })); });
  }

  function hide() {
    at = null;
    tip.hidden = true;
    drawing.querySelector(".sk-now")?.remove();
  }

  function point(i) {
    const shown = data.series.filter((s) => s.y), main = shown[0];
    at = Math.min(Math.max(i, 0), main.x.length - 1);
    drawing.querySelector(".sk-now")?.remove();
    const here = main.x[at], now = svg("g", { class: "sk-now" });
    now.append(svg("line", { class: "sk-cursor", x1: px(here), x2: px(here), y1: TOP, y2: box.height - BOTTOM }));
    const lines = shown.map((s) => {
      const j = nearest(s.x, here), v = s.y[j];
      if (v !== null && (!data.log || v > 0)) now.append(svg("circle", { cx: px(s.x[j]), cy: py(v), r: 4, fill: s.color }));
      return data.tip(j, s, shown.length > 1);
    });
    drawing.append(now);
    showTip(tip, [data.head(at, main), ...lines].join("\n"), px(here), TOP, box.width);
    picked(at);
  }

  // client coordinates are those of the zoomed canvas, the drawing's are not
  function under(event) {
    const rect = drawing.getBoundingClientRect();
    const share = ((event.clientX - rect.left) / rect.width * box.width - LEFT) / (box.width - LEFT - RIGHT);
    const main = data.series.find((s) => s.y);
    return nearest(main.x.map((x) => box.x.at(x)), share);
  }

  drawing.addEventListener("pointermove", (event) => { if (box) point(under(event)); });
  drawing.addEventListener("pointerleave", () => { if (document.activeElement !== drawing) hide(); });
  drawing.addEventListener("blur", hide);
  drawing.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (!step || !box) return;
    event.preventDefault();
    event.stopPropagation();
    point((at ?? (step > 0 ? -1 : data.series.find((s) => s.y).x.length)) + step);
  });
  new ResizeObserver(draw).observe(area);
  return { element: area, plot: { drawing, size, draw, version: () => version }, show(next) { data = next; draw(); } };
}

// A recorded run: film strips of the predictions x0 and of the state x, one frame at a time, and the curves below.

import { chart } from "./chart.js";
import { color } from "./levels.js";
import { el, short } from "./dom.js";
import { say } from "./words.js";

const NAMES = { x0: "prediction x0", x: "state x" };
const PACE = 120; // ms a frame

export function trace(view) {
  let told = null, frame = 0, timer = null;
  const frames = el("div", { class: "sk-frames" }), note = el("div", { class: "sk-note", role: "status" });
  const slider = el("input", { type: "range", min: 0, max: 0, value: 0, "aria-label": say("step"), oninput: () => go(Number(slider.value)) });
  const play = el("button", { type: "button", title: say("Play the run"), onclick: toggle }, "▶"), where = el("span");
  const pick = el("select", { "aria-label": say("curve"), onchange: () => { view.curve = pick.value; curves(); } });
  const plot = chart({ label: "Curves of the run", picked: (i) => { if (told?.frames?.length) go(closest(told.index[i])); } });
  const element = el("div", { class: "sk" }, frames, el("div", { class: "sk-bar" }, play, slider, where), el("div", { class: "sk-bar" }, pick), plot.element, note);
  slider.addEventListener("pointerdown", (event) => event.stopPropagation());
  slider.addEventListener("keydown", (event) => event.stopPropagation());

  const closest = (step) => told.frames.reduce((best, s, j) => (Math.abs(s - step) < Math.abs(told.frames[best] - step) ? j : best), 0);

  function toggle() {
    if (timer) return stop();
    if (frame >= told.frames.length - 1) go(0);
    play.textContent = "❚❚";
    timer = setInterval(() => (frame < told.frames.length - 1 && element.isConnected ? go(frame + 1) : stop()), PACE);
  }
  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "▶";
  }

  function go(to) {
    frame = to;
    slider.value = to;
    where.textContent = say("step {} · {} {}", told.frames[to], told.path === "flow" ? "σ" : "κ", short(told.sigmas?.[to]));
    for (const picture of frames.querySelectorAll("[data-count]")) picture.style.backgroundPosition = `${told.frames.length > 1 ? (to / (picture.dataset.count - 1)) * 100 : 0}% 0`;
  }

  function strips() {
    const there = Object.entries(told.strips ?? {}).filter(([, s]) => s?.src);
    frames.replaceChildren(...there.map(([name, s]) => {
      const size = Math.min(140, Math.max(96, s.width)), high = Math.round(size * s.height / s.width);
      const style = `width:${size}px;height:${high}px;background-image:url("${encodeURI(s.src)}");background-size:${s.count * 100}% 100%`;
      return el("div", { class: "sk-frame" }, el("div", { style, "data-count": s.count, role: "img", "aria-label": say(NAMES[name] ?? name) }), say(NAMES[name] ?? name));
    }));
    const any = there.length > 0 && told.frames?.length > 0;
    slider.max = any ? told.frames.length - 1 : 0;
    play.disabled = slider.disabled = !any;
    if (any) go(told.frames.length - 1);
  }

  function curves() {
    const key = view.curve in told.curves ? view.curve : Object.keys(told.curves)[0], label = told.labels[key] ?? { name: key };
    pick.value = key;
    pick.title = label.help ?? "";
    note.textContent = [label.help, told.summary].filter(Boolean).join(" · ");
    const unit = label.unit ? ` ${label.unit}` : "";
    plot.show({ series: [{ x: told.index, y: told.curves[key], color: color(0) }], log: !!label.log, head: (i, s) => say("step {}", s.x[i]), tip: (i, s) => `${short(s.y[i])}${unit}` });
  }

  return {
    element,
    show(next, text = "") {
      stop();
      told = next;
      play.disabled = slider.disabled = pick.disabled = !told;
      if (!told) { note.textContent = text; return; }
      const keys = Object.keys(told.labels ?? {}).filter((k) => k in told.curves);
      pick.replaceChildren(...keys.map((k) => el("option", { value: k }, told.labels[k].name)));
      strips();
      if (keys.length) curves();
    },
  };
}

// Elements, numbers as text, the clipboard and the one style sheet: nothing here knows ComfyUI.

import { say } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";

// el("button", {class: "x", onclick: f}, "text", child): attributes by name, listeners by "on…"
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((c) => c !== null && c !== undefined));
  return element;
}

// 4 digits at most, as people write them: 0.0123, 14.61, 1.2e-5, −3
export function short(value) {
  if (typeof value === "string") return value;
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  const text = size !== 0 && (size < 1e-3 || size >= 1e5) ? value.toExponential(1).replace(/\.0e/, "e").replace("e+", "e") : String(Number(value.toPrecision(4)));
  return text.replace("-", "−").replace("e-", "e−");
}

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // pages without TLS have no clipboard of their own
    const area = el("textarea", { style: "position:fixed;opacity:0" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

export function copyButton(text) {
  const sheets = () => svg("svg", { viewBox: "0 0 12 12", width: 11, height: 11, fill: "none", stroke: "currentColor" },
    svg("rect", { x: 1, y: 1, width: 7, height: 7, rx: 1 }), svg("path", { d: "M4.5 11H10a1 1 0 0 0 1-1V4.5" }));
  const button = el("button", { type: "button", class: "sk-copy", title: say("Copy as text"), "aria-label": say("Copy as text") }, sheets());
  button.addEventListener("click", async () => {
    await copy(text());
    button.textContent = "✓";
    setTimeout(() => button.replaceChildren(sheets()), 1200);
  });
  return button;
}

// text beside the point (x, y), inside an area of that width
export function showTip(tip, text, x, y, width) {
  tip.textContent = text;
  tip.hidden = false;
  const wide = tip.offsetWidth, left = x > width / 2 ? x - wide - 8 : x + 8;
  tip.style.left = `${Math.max(0, Math.min(left, width - wide))}px`;
  tip.style.top = `${y}px`;
}

// A row of buttons of which one is pressed. options: {key: [label, title]}
export function choice(label, options, chosen, choose) {
  const buttons = Object.entries(options).map(([key, [text, title]]) =>
    el("button", { type: "button", title: say(title), "data-key": key, onclick: () => { choose(key); press(); } }, say(text)));
  const press = () => { for (const b of buttons) b.setAttribute("aria-pressed", String(b.dataset.key === chosen())); };
  press();
  return { element: el("span", { class: "sk-choice", role: "group", "aria-label": say(label) }, ...buttons), press };
}

// Colours of Okabe & Ito, lighter ones on dark themes; everything else is the theme's.
const STYLE = `
.sk { --sk-0:#005f96; --sk-1:#8a4a00; --sk-2:#00634a; --sk-3:#96387a; --sk-4:#2a6a9e; --sk-5:#97331b; --sk-6:#5e5e5e; --sk-7:#222;
  --sk-text: var(--input-text, #222); --sk-dim: color-mix(in srgb, var(--descrip-text, #777) 10%, var(--input-text, #222)); --sk-line: var(--border-color, #bbb); --sk-back: var(--comfy-input-bg, #eee);
  display:flex; flex-direction:column; gap:3px; box-sizing:border-box; width:100%; height:100%; min-height:0; overflow:hidden;
  padding:3px 4px; background:var(--sk-back); border-radius:4px; /* its texts are read on a node of any colour */
  font:11px/1.3 Inter, system-ui, sans-serif; color:var(--sk-text); user-select:none; contain:strict; will-change:transform; }
.sk-sharpen .sk { will-change:auto; }
.dark-theme .sk { --sk-0:#56b4e9; --sk-1:#f0a62a; --sk-2:#2fc79a; --sk-3:#e391bf; --sk-4:#9bd0f2; --sk-5:#f0793c; --sk-6:#aaa; --sk-7:#eee; }
.sk-bar { display:flex; flex-wrap:wrap; align-items:center; gap:3px 5px; flex:none; }
.sk-bar > .sk-push { margin-left:auto; }
.sk button { font:inherit; color:var(--sk-text); background:var(--sk-back); border:1px solid var(--sk-line); border-radius:4px; padding:0 5px; height:18px; cursor:pointer; }
.sk .sk-copy { padding:0 4px; min-width:22px; }
.sk button[aria-pressed=true] { background:var(--sk-0); border-color:var(--sk-0); color:var(--sk-on, #fff); }
.dark-theme .sk { --sk-on:#111; }
.sk button:disabled { opacity:.4; cursor:default; }
.sk-choice { display:inline-flex; }
.sk-choice button { border-radius:0; margin-left:-1px; }
.sk-choice button:first-child { border-radius:4px 0 0 4px; margin-left:0; }
.sk-choice button:last-child { border-radius:0 4px 4px 0; }
.sk :focus-visible { outline:2px solid var(--sk-1); outline-offset:1px; }
.sk-area { position:relative; flex:1 1 0; min-height:40px; background:var(--sk-back); border-radius:4px; overflow:hidden; }
.sk-area > svg { position:absolute; inset:0; width:100%; height:100%; display:block; touch-action:none; }
.sk-area text { fill:var(--sk-dim); font:10px Inter, system-ui, sans-serif; }
.sk-grid { stroke:var(--sk-line); stroke-opacity:.45; }
.sk-cursor { stroke:var(--sk-dim); stroke-dasharray:2 2; }
.sk-tip { position:absolute; pointer-events:none; background:var(--comfy-menu-bg, #fff); color:var(--sk-text); border:1px solid var(--sk-line); border-radius:4px; padding:1px 5px; white-space:pre; line-height:1.35; z-index:1; }
.sk-tip[hidden], .sk [hidden], .sk-note:empty, .sk-legend:empty { display:none; }
.sk-note { flex:none; color:var(--sk-dim); overflow:hidden; display:-webkit-box; -webkit-line-clamp:3; -webkit-box-orient:vertical; user-select:text; }
.sk-note[data-kind=error] { color:color-mix(in srgb, var(--error-text, #d33) 50%, var(--sk-7)); }
.sk-legend { flex:none; display:flex; flex-wrap:wrap; gap:0 10px; color:var(--sk-dim); }
.sk-legend i { display:inline-block; width:12px; height:3px; border-radius:2px; margin-right:4px; vertical-align:middle; }
.sk-handle { cursor:grab; stroke:var(--sk-back); stroke-width:2; }
.sk-handle:focus { stroke:var(--sk-text); outline:none; }
.sk-scroll { flex:1 1 0; min-height:40px; overflow:auto; background:var(--sk-back); border-radius:4px; user-select:text; }
.sk-scroll table { border-collapse:collapse; width:100%; font-variant-numeric:tabular-nums; }
.sk-scroll th { position:sticky; top:0; background:var(--sk-back); color:var(--sk-dim); font-weight:500; padding:2px 6px; text-align:right; }
.sk-scroll td { padding:1px 6px; text-align:right; white-space:nowrap; }
.sk-scroll tr.sk-step td { border-top:1px solid var(--sk-line); }
.sk-report { font:11px/1.4 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; padding:4px 6px; cursor:text; white-space:pre-wrap; overflow-wrap:anywhere; }
.sk-report .sk-row { white-space:pre; overflow-wrap:normal; }
.sk-report b { font-weight:400; color:var(--sk-dim); }
.sk-picture { flex:2 1 0; min-height:60px; display:flex; background:var(--sk-back); border-radius:4px; overflow:hidden; }
.sk-picture img { margin:auto; max-width:100%; max-height:100%; min-width:0; min-height:0; object-fit:contain; border-radius:3px; }
.sk-picture .sk-squares { image-rendering:pixelated; height:100%; }
.sk-frames { display:flex; gap:6px; flex:none; justify-content:center; }
.sk-frame { flex:0 1 auto; text-align:center; color:var(--sk-dim); }
.sk-frame div { background-repeat:no-repeat; image-rendering:auto; border-radius:4px; }
.sk input[type=range] { flex:1 1 60px; min-width:60px; accent-color:var(--sk-0); }
.sk select { font:inherit; color:var(--sk-text); background:var(--sk-back); border:1px solid var(--sk-line); border-radius:4px; height:18px; max-width:60%; }
`;

export function addStyle() {
  if (!document.getElementById("sampling-kit-style")) document.head.append(el("style", { id: "sampling-kit-style" }, STYLE));
}

// A panel is a layer of its own, moved and not drawn anew while the canvas moves. It is drawn for one zoom: once another
// one rests, for two frames it is no layer, and so drawn again.
export function sharpener(zoom) {
  let drawn = zoom(), before = drawn;
  return () => {
    const now = zoom(), rests = now === before;
    before = now;
    if (!rests || now === drawn) return;
    drawn = now;
    document.documentElement.classList.add("sk-sharpen");
    requestAnimationFrame(() => requestAnimationFrame(() => document.documentElement.classList.remove("sk-sharpen")));
  };
}

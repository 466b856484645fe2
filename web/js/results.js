// What a run told, on the node itself: its pictures, and its text as a table that does not wrap.

import { copyButton, el } from "./dom.js";
import { MOST_REPORT } from "./kept.js";
import { say } from "./words.js";

// Nodes that show a report although their run does not end at them.
const ALSO = new Set(["SamplingKitDenoiserSettings", "SamplingKitFittedSolver", "SamplingKitLoadDiffusersDenoiser", "SamplingKitSample"]);

// {width, height} of the panel of a node, from its definition; null where it has none
export function roomOf(definition) {
  const { name = "", output_node, output = [] } = definition ?? {};
  if (!name.startsWith("SamplingKit") || !(output_node || ALSO.has(name))) return null;
  return output_node && output.includes("IMAGE") ? { width: 420, height: 330 } : { width: 380, height: 170 };
}

// what the panel shows of a node's output after a run, or null
export function reportOf(output) {
  const text = [output?.text ?? []].flat().filter((t) => typeof t === "string").join("\n");
  const pictures = [output?.sampling_kit_picture ?? []].flat();
  return text || pictures.length ? { text: text.length > MOST_REPORT ? `${text.slice(0, MOST_REPORT - 1)}…` : text, pictures } : null;
}

const FACT = /^([\p{L}\p{N} _().σκ-]{1,40}): (.+)$/u;

// a line: columns of a table stay as they are, "key: value" has a pale key, sentences wrap
function line(text) {
  if (/\S {2,}\S/.test(text) || /^ {2,}/.test(text)) return el("div", { class: "sk-row" }, text);
  const fact = FACT.exec(text);
  return el("div", {}, ...(fact ? [el("b", {}, `${fact[1]}: `), fact[2]] : [text || "\u00a0"]));
}

export function results() {
  let report = null, at = 0;
  const image = el("img", { alt: say("Picture of the report"), draggable: "false" });
  const frame = el("div", { class: "sk-picture", hidden: true }, image);
  const pick = el("span", { class: "sk-choice" });
  const scroll = el("div", { class: "sk-scroll sk-report", tabindex: 0, "data-capture-wheel": "true", role: "region", "aria-label": say("Report") });
  const note = el("div", { class: "sk-note", role: "status" });
  const bar = el("div", { class: "sk-bar", hidden: true }, pick, el("span", { class: "sk-push" }), copyButton(() => report?.text ?? ""));
  const element = el("div", { class: "sk" }, bar, frame, scroll, note);
  image.addEventListener("load", () => image.classList.toggle("sk-squares", image.naturalHeight < 100));

  function turn(i) {
    at = i;
    image.src = report.pictures[at];
    for (const [j, button] of [...pick.children].entries()) button.setAttribute("aria-pressed", String(j === at));
  }

  return {
    element,
    get report() { return report; },
    show(next) {
      report = next;
      const pictures = report?.pictures ?? [];
      bar.hidden = !report;
      frame.hidden = !pictures.length;
      scroll.hidden = !report?.text;
      note.textContent = report ? "" : say("What a run tells is shown here.");
      scroll.replaceChildren(...(report?.text ? report.text.split("\n").map(line) : []));
      pick.replaceChildren(...(pictures.length > 1 ? pictures.map((_, i) => el("button", { type: "button", title: say("Picture {}", i + 1), onclick: () => turn(i) }, String(i + 1))) : []));
      if (pictures.length) turn(Math.min(at, pictures.length - 1));
      else image.removeAttribute("src");
    },
  };
}

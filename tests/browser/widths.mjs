// Whether every node of the pack shows its title, its slots, its labels and its first values whole at the width at which it is added.
//   node tests/browser/widths.mjs [--url http://127.0.0.1:8188] [--only classic|nodes2] [--locale en]
// Classic canvas: what it draws with "…", though the text has none, is cut. Nodes 2.0: what is wider than its element. Texts that a person
// types (a curve, a list) may be longer than any node. Exit code 1 where something is cut.
import { parseArgs } from "node:util";
import { launch, open } from "./page.mjs";

const { values: options } = parseArgs({ options: { url: { type: "string", default: "http://127.0.0.1:8188" }, only: { type: "string" }, locale: { type: "string", default: "en" } } });

const types = () => Object.keys(LiteGraph.registered_node_types).filter((type) => type.startsWith("SamplingKit")).sort();

// {type: [cut text]} of nodes drawn one by one
async function classic(all) {
  const draw = CanvasRenderingContext2D.prototype.fillText, cut = {};
  const typed = (node) => new Set((node.widgets ?? []).filter((w) => ["text", "string", "customtext"].includes(w.type)).map((w) => String(w.value).slice(0, 4)));
  for (const type of all) {
    app.graph.clear();
    const node = LiteGraph.createNode(type), drawn = [];
    app.graph.add(node);
    app.canvas.ds.scale = 1;
    node.pos = [60 - app.canvas.ds.offset[0], 120 - app.canvas.ds.offset[1]];
    CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) { drawn.push(String(text)); return draw.call(this, text, ...rest); };
    app.canvas.draw(true, true);
    CanvasRenderingContext2D.prototype.fillText = draw;
    const texts = typed(node), bad = drawn.filter((text) => /…|\.\.\.$/.test(text) && ![...texts].some((start) => start && text.startsWith(start)));
    if (bad.length) cut[type] = [...new Set(bad)];
    if (!drawn.length) cut[type] = ["nothing was drawn"];
  }
  return cut;
}

async function nodes2(all) {
  app.graph.clear();
  all.forEach((type, i) => {
    const node = LiteGraph.createNode(type);
    app.graph.add(node);
    node.pos = [(i % 16) * 480, Math.floor(i / 16) * 800];
  });
  app.canvas.ds.scale = 0.2;
  app.canvas.ds.offset = [100, 100];
  app.canvas.setDirty(true, true);
  await new Promise((done) => setTimeout(done, 6000));
  const cut = {};
  for (const node of app.graph.nodes) {
    const element = document.querySelector(`[data-node-id="${node.id}"]`), bad = [];
    if (!element) { cut[node.type] = ["not drawn"]; continue; }
    for (const e of element.querySelectorAll("*")) {
      if (e.closest(".sk") || e.matches("textarea, input[type=text]:not([inputmode])")) continue;
      const text = e instanceof HTMLInputElement ? e.value : [...e.childNodes].filter((c) => c.nodeType === Node.TEXT_NODE).map((c) => c.textContent.trim()).join("");
      if (text && e.clientWidth > 0 && e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX !== "visible") bad.push(`${text} (${e.scrollWidth} in ${e.clientWidth})`);
    }
    if (bad.length) cut[node.type] = bad;
  }
  return cut;
}

const browser = await launch();
let failures = 0;
try {
  for (const [renderer, look] of Object.entries({ classic, nodes2 }).filter(([name]) => name === (options.only ?? name))) {
    const page = await open(browser, options.url, { nodes2: renderer === "nodes2", settings: { "Comfy.Locale": options.locale } });
    const all = await page.evaluate(types), cut = await page.evaluate(look, all);
    for (const [type, texts] of Object.entries(cut)) console.log(`       ${type}: ${texts.join(" | ")}`);
    failures += Object.keys(cut).length;
    console.log(`${Object.keys(cut).length ? "FAIL" : "ok  "} ${renderer}: ${all.length} nodes at the width at which they are added, ${Object.keys(cut).length} with something cut`);
    await page.context().close();
  }
} finally {
  await browser.close();
}
process.exitCode = failures ? 1 : 0;

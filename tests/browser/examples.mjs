// Opens every example in the real ComfyUI frontend.
//   node tests/browser/examples.mjs [--url http://127.0.0.1:8188] [options] [stem ...]
//     (nothing)        check: the UI graph makes the same prompt as its API twin, in both renderers, without a complaint
//     --turns          each in one renderer, one after the other, not in both
//     --write          first make example_workflows/<stem>.json from the API twins
//     --sizes FILE     keep the graphs from the twins and what both renderers measure: relayout.mjs finds places from it, without a page
//     --run DIR        queue every example from the page, save the pictures to DIR
//     --thumbnails     with --run: write example_workflows/<stem>.jpg
//     --drop STEM=PNG  drop that picture on the page: the twin's graph must come back (may be repeated)
//     --shots DIR      screenshots of every graph, in the classic canvas and in Nodes 2.0
// Needs chromium and playwright-core (PLAYWRIGHT_CORE, NODE_PATH or ~/pw/node_modules). Talks to the given server only.
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import path from "node:path";
import { parseArgs } from "node:util";
import { arranged } from "./arrange.mjs";
import { repeated } from "./layout.mjs";
import models from "./models.mjs";
import notes from "./notes.mjs";
import { PACK, inPage, launch, open } from "./page.mjs";

const root = fileURLToPath(new URL("../../", import.meta.url));
const examples = path.join(root, "example_workflows");
const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    url: { type: "string", default: "http://127.0.0.1:8188" },
    turns: { type: "boolean" },
    write: { type: "boolean" },
    sizes: { type: "string" },
    thumbnails: { type: "boolean" },
    run: { type: "string" },
    shots: { type: "string" },
    drop: { type: "string", multiple: true, default: [] },
  },
});
const all = readdirSync(path.join(examples, "api")).filter((f) => f.endsWith(".json")).map((f) => f.slice(0, -5)).sort();
const stems = positionals.length ? positionals : all;
const json = (...parts) => JSON.parse(readFileSync(path.join(...parts), "utf8"));
const twin = (stem) => json(examples, "api", `${stem}.json`);
const version = /^version = "(.+)"/m.exec(readFileSync(path.join(root, "pyproject.toml"), "utf8"))[1];
for (const folder of [options.run, options.shots]) if (folder) mkdirSync(folder, { recursive: true });

let failures = 0;
function report(what, problems) {
  failures += problems.length;
  console.log(`${problems.length ? "FAIL" : "ok  "} ${what}`);
  for (const p of problems) console.log(`       ${p}`);
}

// Two prompts are equal when every node has a partner with the same type, title, values and, recursively, sources.
function differences(got, want) {
  const names = (prompt) => {
    const memo = {};
    const name = (id) => (memo[id] ??= JSON.stringify([
      prompt[id]?.class_type, prompt[id]?._meta?.title,
      Object.entries(prompt[id]?.inputs ?? {}).sort().map(([k, v]) => [k, Array.isArray(v) ? [name(v[0]), v[1]] : v]),
    ]));
    return Object.keys(prompt).map((id) => ({ id, name: name(id) }));
  };
  const rest = names(got), missing = [];
  for (const w of names(want)) {
    const i = rest.findIndex((g) => g.name === w.name);
    if (i < 0) missing.push(w); else rest.splice(i, 1);
  }
  const show = (label, prompt, list) => list.map(({ id }) => `${label} ${id}: ${JSON.stringify(prompt[id])}`);
  return [...show("not as in the twin", got, rest), ...show("expected from the twin", want, missing)];
}

function overlaps(nodes) {
  const found = [];
  nodes.forEach((a, i) => nodes.slice(i + 1).forEach((b) => {
    const [x, y, w, h] = a.box, [u, v, s, t] = b.box;
    if (x < u + s && u < x + w && y < v + t && v < y + h) found.push(`${a.title} overlaps ${b.title}`);
  }));
  return found;
}

async function shot(page, name) {
  if (!options.shots) return;
  await page.evaluate(inPage.fit);
  await page.waitForTimeout(1200); // fit-view animation, fonts
  await page.screenshot({ path: path.join(options.shots, `${name}.png`) });
}

const file = (stem) => path.join(examples, `${stem}.json`);
const took = (page) => page.ours.splice(0).map((t) => `the page complained: ${t}`);

// Whether a twin loads a checkpoint: then the parts are in ComfyUI's loaders and in Sample.
const loads = (api) => Object.values(api).some((n) => /Loader/.test(n.class_type));

// The graph of an API twin, and how large each renderer draws its nodes.
async function built(pages, stem) {
  const api = twin(stem), types = Object.fromEntries(Object.entries(api).map(([id, n]) => [id, n.class_type]));
  const links = Object.entries(api).flatMap(([id, n]) => Object.values(n.inputs).filter(Array.isArray).map(([from, slot]) => [from, slot, id, 0]));
  await pages[0].evaluate(inPage.prepare, { api, stem, note: notes[stem], pack: PACK, version, models, inside: repeated(stem, types, links) });
  const ui = await pages[0].evaluate(inPage.saved, { stem, pack: PACK }), each = [];
  for (const page of pages) each.push(await page.evaluate(inPage.sizes, { ui, stem }));
  const sizes = (of) => Object.fromEntries(Object.keys(each[0][of] ?? {}).map((id) => {
    const seen = each.map((one) => one[of][id]);
    return [id, { w: Math.max(...seen.map((n) => n.w)), h: Math.max(...seen.map((n) => n.h)), faces: seen.map(({ ins, outs, inset }) => ({ ins, outs, inset })) }];
  }));
  return { ui, sizes: { outer: sizes("outer"), inner: sizes("inner") } };
}

async function write(pages) {
  const kept = options.sizes && existsSync(options.sizes) ? json(options.sizes) : {};
  for (const stem of stems) {
    kept[stem] = await built(pages, stem);
    if (options.sizes) writeFileSync(options.sizes, JSON.stringify(kept));
    if (!options.write) continue;
    const { ui, facts } = arranged(kept[stem].ui, kept[stem].sizes);
    console.log(`     ${stem}: ${Math.round(facts.wide)} × ${Math.round(facts.high)}, ${facts.crossings} crossings, ${facts.behind} behind nodes`);
    writeFileSync(file(stem), `${JSON.stringify(ui, null, 1)}\n`);
  }
}

async function check(page, stem, mode) {
  const ui = json(file(stem)), want = twin(stem);
  const got = await page.evaluate(inPage.load, { ui, stem });
  const problems = differences(got.output, want);
  for (const n of got.nodes) {
    const wanted = want[n.id]?._meta?.title ?? n.displayName;
    if (n.isSubgraph) continue;
    if (n.missing && !n.files) problems.push(`node ${n.id} (${n.type}) is missing or in error`);
    if (n.title !== wanted && n.type !== "MarkdownNote") problems.push(`node ${n.id} is titled "${n.title}", not "${wanted}"`);
    if (n.type.startsWith("SamplingKit") && (!n.displayName || n.displayName === n.type)) problems.push(`${n.type} has no display name`);
  }
  for (const n of [...ui.nodes, ...(ui.definitions?.subgraphs ?? []).flatMap((of) => of.nodes)]) {
    if (n.type.startsWith("SamplingKit") && n.properties.cnr_id !== PACK) problems.push(`node ${n.id} lacks cnr_id`);
    if (/"(randomize|increment|decrement)"/.test(JSON.stringify(n.widgets_values))) problems.push(`node ${n.id}: seed is not fixed`);
  }
  if (!got.nodes.some((n) => n.type === "MarkdownNote")) problems.push("no note");
  const whole = got.nodes.some((n) => n.type === "SamplingKitSample"); // schedule, guidance and solver in one
  const parts = loads(want) ? [] : whole ? ["denoiser"] : ["schedule", "denoiser", "guidance", "solver"];
  for (const part of parts) if (!got.nodes.some((n) => n.color && n.part === part) && !got.nodes.some((n) => n.isSubgraph)) problems.push(`no node of part "${part}" in its colour`);
  if (mode === "classic") problems.push(...overlaps(got.nodes));
  await shot(page, `${stem}-${mode}`);
  report(`${stem}: ${mode}`, [...problems, ...took(page)]);
}

// Queue what is on the canvas the way the Run button does, wait for it, return the picture's address.
async function run(page, stem) {
  const finished = new Promise((resolve, reject) => {
    page.once("response", async function wait(r) {
      if (!/\/prompt$/.test(new URL(r.url()).pathname) || r.request().method() !== "POST") return page.once("response", wait);
      if (!r.ok()) return reject(new Error(`${stem}: the server refused the graph: ${await r.text()}`));
      const id = (await r.json()).prompt_id;
      for (;;) {
        const entry = (await (await fetch(`${options.url}/history/${id}`)).json())[id];
        if (entry?.status?.completed) return resolve(entry);
        if (entry?.status?.status_str === "error") return reject(new Error(`${stem}: ${JSON.stringify(entry.status.messages.at(-1))}`));
        await new Promise((done) => setTimeout(done, 300));
      }
    });
  });
  await page.evaluate(() => app.queuePrompt(0));
  const started = Date.now(), entry = await finished;
  const image = Object.values(entry.outputs).flatMap((o) => o.images ?? []).find((i) => i.filename.endsWith(".png"));
  const url = `${options.url}/view?${new URLSearchParams(image)}`;
  const picture = path.join(options.run, `${stem}.png`);
  writeFileSync(picture, Buffer.from(await (await fetch(url)).arrayBuffer()));
  if (options.thumbnails) {
    const data = await page.evaluate(inPage.thumbnail, { url, width: 400, quality: 0.85 });
    writeFileSync(path.join(examples, `${stem}.jpg`), Buffer.from(data.split(",")[1], "base64"));
  }
  await shot(page, `${stem}-result`);
  report(`${stem}: ran in ${((Date.now() - started) / 1000).toFixed(1)} s -> ${picture}`, took(page));
}

// A real drop event on the canvas, so that the frontend's own handler reads the file.
async function drop(page, stem, png) {
  await page.evaluate(() => app.loadGraphData({ nodes: [], links: [], version: 0.4, last_node_id: 0, last_link_id: 0 }));
  await page.evaluate(async ({ data, name }) => {
    const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0)), transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, { type: "image/png" }));
    document.querySelector("#graph-canvas").dispatchEvent(new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: transfer }));
  }, { data: readFileSync(png).toString("base64"), name: path.basename(png) });
  const want = twin(stem);
  await page.waitForFunction((n) => app.rootGraph.nodes.filter((x) => x.type in LiteGraph.registered_node_types).length >= n, Object.keys(want).length, { timeout: 15_000 }).catch(() => {});
  const got = await page.evaluate(inPage.prompt);
  await shot(page, `${stem}-dropped`);
  report(`${stem}: dropped ${png}`, [...differences(got, want), ...took(page)]);
}

async function templates() {
  const listed = (await (await fetch(`${options.url}/workflow_templates`)).json())[PACK] ?? [];
  const problems = [];
  for (const stem of all) {
    if (!listed.includes(stem)) problems.push(`/workflow_templates does not list ${stem}`);
    for (const [end, type] of [["json", "application/json"], ["jpg", "image/jpeg"]]) {
      const r = await fetch(`${options.url}/api/workflow_templates/${PACK}/${stem}.${end}`);
      await r.arrayBuffer(); // an unread answer keeps node alive
      if (!r.ok || !r.headers.get("content-type")?.startsWith(type)) problems.push(`${r.status} ${r.headers.get("content-type")} for ${r.url}`);
    }
  }
  report(`templates: ${listed.length} listed`, problems);
}

// The examples that are opened in renderer k of two.
const turn = (k) => stems.filter((_, i) => !options.turns || i % 2 === k);
const browser = await launch();
try {
  const page = await open(browser, options.url);
  if (options.write || options.sizes) await write([page, await open(browser, options.url, { nodes2: true })]);
  const only = options.sizes && !options.write; // measured, not checked
  for (const stem of only ? [] : turn(0)) {
    await check(page, stem, "classic");
    if (options.run) await run(page, stem);
  }
  for (const pair of options.drop) await drop(page, pair.slice(0, pair.indexOf("=")), pair.slice(pair.indexOf("=") + 1));
  await page.context().close();

  const vue = only ? null : await open(browser, options.url, { nodes2: true });
  for (const stem of only ? [] : turn(1)) await check(vue, stem, "nodes2");
  if (!only) await templates();
} finally {
  await browser.close();
}
process.exitCode = failures ? 1 : 0;

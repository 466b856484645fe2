// The functions in `inPage` run inside the ComfyUI page (playwright sends their source), so each must stand alone.
import { createRequire } from "node:module";
import { existsSync } from "node:fs";
import { homedir } from "node:os";
import path from "node:path";

export const PACK = "comfyui-sampling-kit";

export function playwright() {
  const require = createRequire(import.meta.url); // looks through NODE_PATH too
  const names = [process.env.PLAYWRIGHT_CORE, "playwright-core", path.join(homedir(), "pw/node_modules/playwright-core")];
  for (const name of names.filter(Boolean)) {
    try { return require(name); } catch (e) { if (e.code !== "MODULE_NOT_FOUND") throw e; }
  }
  throw new Error("playwright-core not found: npm install playwright-core, and set PLAYWRIGHT_CORE to its folder");
}

export async function launch() {
  const chrome = process.env.CHROMIUM ?? ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync);
  return playwright().chromium.launch({
    executablePath: chrome, // undefined: playwright's own
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
  });
}

// A page with the frontend ready. Settings are answered here: the server's user keeps theirs, and no template dialog opens.
export async function open(browser, url, { nodes2 = false, settings = {} } = {}) {
  const context = await browser.newContext({ viewport: { width: 1920, height: 1080 } });
  context.setDefaultTimeout(120_000); // a busy machine
  const page = await context.newPage();
  page.ours = []; // complaints that name our pack
  const complain = (text) => { if (/sampling.?kit/i.test(text)) page.ours.push(text); };
  page.on("console", (m) => ["error", "warning"].includes(m.type()) && complain(`${m.type()}: ${m.text()} (${m.location().url})`));
  page.on("pageerror", (e) => page.ours.push(`exception: ${e.stack ?? e}`));
  page.on("response", (r) => r.status() >= 400 && complain(`${r.status()} ${r.url()}`));
  const values = { "Comfy.TutorialCompleted": true, "Comfy.Minimap.Visible": false, "Comfy.VueNodes.Enabled": nodes2, ...settings };
  await page.route("**/api/settings*", (r) => r.fulfill(r.request().method() === "GET" ? { json: values } : { status: 200 }));
  await page.route("**/api/settings/*", (r) => r.fulfill({ status: 200 }));
  await page.goto(url);
  await page.waitForFunction(() => window.app?.vueAppReady && window.LiteGraph?.registered_node_types?.SaveImage, null, { timeout: 120_000 });
  return page;
}

export const inPage = {
  // API twin -> graph: each part in its colour, what is repeated inside a subgraph.
  // models: {file: {directory, url}}, for the page's offer to download
  async prepare({ api, stem, note, pack, version, models, inside }) {
    const part = { schedule: "blue", denoiser: "green", guidance: "yellow", solver: "brown", fit: "brown", state: "brown" };
    await app.loadApiJson(api, stem);
    const graph = app.rootGraph, leads = (n) => n.inputs.some((i) => i.link !== null && i.link !== undefined);
    for (const n of graph.nodes) {
      const color = /Sigmas$/.test(n.type) ? "blue" : part[n.constructor.nodeData.category.split("/").pop()] ?? (leads(n) ? null : "purple");
      if (color) n.setColorOption(app.canvas.constructor.node_colors[color]);
      if (n.type.startsWith("SamplingKit")) Object.assign(n.properties, { cnr_id: pack, ver: version });
      const seed = n.widgets?.find((w) => w.name === "control_after_generate");
      if (seed) seed.value = "fixed";
      const files = (n.widgets ?? []).filter((w) => models[w.value]).map((w) => ({ name: w.value, ...models[w.value] }));
      if (files.length) n.properties.models = files;
      const room = { SaveImage: [300, 320], PreviewImage: [300, 320], PreviewAny: [280, 150] }[n.type] ?? (/^Save.*(WEBP|PNG|Video)/.test(n.type) ? [300, 360] : [210, 0]);
      n.setSize([Math.max(n.size[0], room[0]), Math.max(n.computeSize()[1], room[1])]);
    }
    if (inside.length) {
      const { subgraph, node } = graph.convertToSubgraph(new Set(graph.nodes.filter((n) => inside.includes(String(n.id)))));
      const runs = subgraph.nodes.filter((n) => /^(SamplerCustomAdvanced|SamplingKitSample)$/.test(n.type)).length;
      subgraph.name = node.title = runs > 1 ? `The ${runs} runs` : "The run";
      for (const name of ["inputs", "outputs"]) for (const slot of subgraph[name]) slot.label = slot.label?.replace(/_\d+$/, "");
      node.setSize([220, node.computeSize()[1] + 12]);
    }
    const text = LiteGraph.createNode("MarkdownNote");
    text.title = "About this example";
    graph.add(text);
    text.widgets[0].value = note;
    const lines = note.split("\n").reduce((sum, line) => sum + Math.max(1, Math.ceil(line.length / 58)), 0);
    text.setSize([400, Math.min(420, 50 + 17 * lines)]);
  },

  // the graph as the frontend saves it, its links numbered in the order of the twin, so that a second run writes the same file
  async saved({ stem, pack }) {
    const saved = app.rootGraph.serialize(), number = {};
    saved.links.sort((a, b) => a[3] - b[3] || a[4] - b[4]).forEach((l, i) => { number[l[0]] = i + 1; l[0] = i + 1; });
    for (const n of saved.nodes) {
      n.inputs?.forEach((i) => { if (i.link) i.link = number[i.link]; });
      n.outputs?.forEach((o) => { o.links = o.links?.map((l) => number[l]).sort((a, b) => a - b) ?? null; });
    }
    saved.last_link_id = saved.links.length;
    saved.nodes.sort((a, b) => a.id - b.id);
    saved.extra = { ...saved.extra, ds: { scale: 0.9, offset: [416, 110] } };
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-1", new TextEncoder().encode(`${pack}/${stem}`)));
    saved.id = [...digest.slice(0, 16)].map((b) => b.toString(16).padStart(2, "0")).join("").replace(/^(.{8})(.{4}).(.{3}).(.{3})(.{12})$/, "$1-$2-5$3-8$4-$5");
    const ids = new Map([[saved.id, saved.id]]); // the others follow from it
    const text = JSON.stringify(saved).replace(/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g, (id) => {
      if (!ids.has(id)) ids.set(id, `${saved.id.slice(0, 24)}${String(ids.size).padStart(12, "0")}`);
      return ids.get(id);
    });
    return JSON.parse(text);
  },

  // how large this renderer draws the nodes of a saved graph, without their titles, and where their slots are:
  // {outer: {id: {w, h, ins: [y], outs: [y], inset: [of inputs, of outputs]}}, inner: the same of its subgraph or null}
  async sizes({ ui, stem }) {
    const rest = async (graph) => {
      app.canvas.setGraph(graph);
      for (let last = "", i = 0; i < 20; i++) {
        await new Promise((done) => setTimeout(done, 250));
        const now = JSON.stringify(graph.nodes.map((n) => [...n.size]));
        if (i > 1 && now === last) break;
        last = now;
      }
      return Object.fromEntries(graph.nodes.map((n) => [n.id, {
        w: n.size[0], h: n.size[1], ins: n.inputs.map((_, i) => n.getInputPos(i)[1] - n.pos[1]), outs: n.outputs.map((_, i) => n.getOutputPos(i)[1] - n.pos[1]),
        inset: [n.inputs.length ? n.getInputPos(0)[0] - n.pos[0] : 0, n.outputs.length ? n.pos[0] + n.size[0] - n.getOutputPos(0)[0] : 0],
      }]));
    };
    await app.loadGraphData(ui, true, true, stem);
    const outer = await rest(app.rootGraph), nested = app.rootGraph.nodes.find((n) => n.isSubgraphNode?.());
    const inner = nested ? await rest(nested.subgraph) : null;
    app.canvas.setGraph(app.rootGraph);
    return { outer, inner };
  },

  // load a saved graph as the user's "open" does, save it again, and say what is in it
  async load({ ui, stem }) {
    await app.loadGraphData(ui, true, true, stem);
    return inspect();
    async function inspect() {
      const graph = app.rootGraph;
      return {
        output: (await app.graphToPrompt()).output,
        saved: graph.serialize(),
        groups: graph.groups.map((g) => g.title),
        nodes: graph.nodes.map((n) => ({
          id: n.id, type: n.type, title: n.title, isSubgraph: !!n.isSubgraphNode?.(), color: n.color, part: n.constructor.nodeData?.category?.split("/").pop(), missing: !(n.type in LiteGraph.registered_node_types) || !!n.has_errors,
          files: !!n.properties.models || n.type === "LoadImage", // its file may be absent here
          displayName: n.constructor.nodeData?.display_name ?? n.constructor.title,
          box: [n.pos[0], n.pos[1] - 30, n.size[0], n.size[1] + 30], need: [...n.computeSize()],
        })),
      };
    }
  },

  // what is on the canvas: boxes with their titles, links as {from, to, out, via, ends}
  look() {
    const graph = app.canvas.graph, boxes = {}, titles = {}, links = [];
    for (const n of graph.nodes) { boxes[n.id] = [n.pos[0], n.pos[1] - 30, n.size[0], n.size[1] + 30]; titles[n.id] = n.title; }
    for (const l of graph.links.values()) {
      const a = graph.getNodeById(l.origin_id), b = graph.getNodeById(l.target_id), via = [];
      for (let at = graph.reroutes?.get(l.parentId); at; at = graph.reroutes.get(at.parentId)) via.unshift([...at.pos]);
      if (a && b) links.push({ from: l.origin_id, to: l.target_id, out: `${l.origin_id}:${l.origin_slot}`, via, ends: [[...a.getOutputPos(l.origin_slot)], [...b.getInputPos(l.target_slot)]] });
    }
    return { boxes, titles, links, scale: app.canvas.ds.scale };
  },

  async prompt() { return (await app.graphToPrompt()).output; },

  async fit() {
    app.canvas.deselectAll?.();
    await app.extensionManager.command.execute("Comfy.Canvas.FitView");
  },

  // a picture -> JPEG data URL, `width` pixels wide
  async thumbnail({ url, width, quality }) {
    const image = await createImageBitmap(await (await fetch(url)).blob());
    const canvas = document.createElement("canvas");
    canvas.width = width;
    canvas.height = Math.round((image.height * width) / image.width);
    const draw = canvas.getContext("2d");
    draw.imageSmoothingQuality = "high";
    draw.drawImage(image, 0, 0, canvas.width, canvas.height);
    return canvas.toDataURL("image/jpeg", quality);
  },
};

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
  // API twin -> graph laid out in groups; returns what the frontend serialises. models: {file: {directory, url}}, for the page's offer to download
  async build({ api, stem, note, pack, version, models }) {
    const GAP = 44, WIDE = 76, PAD = 24, TITLE = 40, HEAD = 30, NOTE = 190, ROWS = -1; // HEAD: a node's title lies above its pos; WIDE: Nodes 2.0 are taller
    const part = { schedule: "Schedule", denoiser: "Denoiser", guidance: "Guidance", solver: "Solver", fit: "Solver", state: "Solver" };
    const color = { Model: "#8A8", Prompt: "#b58b2a", Result: "#678", ControlNet: "#3a8", Schedule: "#3f789e", Denoiser: "#8A8", Guidance: "#b58b2a", Solver: "#b06634", Start: "#a1309b", Sample: "#88A" };
    await app.loadApiJson(api, stem);
    const graph = app.rootGraph, nodes = graph.nodes.slice().sort((a, b) => a.id - b.id);
    const sources = (n) => n.inputs.map((i) => i.link && graph.getNodeById(graph.getLink(i.link).origin_id)).filter(Boolean);
    const depth = (n) => 1 + Math.max(-1, ...sources(n).map(depth));
    const daily = nodes.some((n) => /Loader/.test(n.type)); // ComfyUI's loaders: the groups follow its own templates
    const ROW = daily ? 56 : WIDE;
    const core = [["Result", /^VAE(Decode|Loader)|^Save|ImageSheet$/], ["ControlNet", /^Canny|^ControlNet/], ["Model", /Loader|^ModelSampling/],
      ["Prompt", /^CLIPTextEncode|^FluxGuidance/], ["Start", /Latent|^LoadImage|^Image|^VAEEncode|Noise$/]];
    const partOf = (n) => (daily && core.find(([, types]) => types.test(n.type))?.[0]) || (/Sigmas$/.test(n.type) ? "Schedule"
      : part[n.constructor.nodeData.category.split("/").pop()] ?? (depth(n) ? "Sample" : "Start"));

    const blocks = {}; // part -> its nodes
    for (const n of nodes) {
      (blocks[partOf(n)] ??= []).push(n);
      if (n.type.startsWith("SamplingKit")) Object.assign(n.properties, { cnr_id: pack, ver: version });
      const seed = n.widgets?.find((w) => w.name === "control_after_generate");
      if (seed) seed.value = "fixed";
      const files = (n.widgets ?? []).filter((w) => models?.[w.value]).map((w) => ({ name: w.value, ...models[w.value] }));
      if (files.length) n.properties.models = files;
      const room = daily ? [320, 320] : [400, 400]; // for the picture
      n.setSize(/^(Save(Image|Animated)|LoadImage)/.test(n.type) ? room : n.type === "CLIPTextEncode" ? [300, 130] : [daily ? 270 : Math.max(n.size[0], 250), n.computeSize()[1]]);
    }
    // one part: columns by dependency depth (at most three, five in a deep part; the rest goes below) inside a titled group
    function place(name, x, y, last = null, first = null) {
      const columns = [], depths = [...new Set(blocks[name].map(depth))].sort((a, b) => a - b);
      last ??= depths.length > 4 ? 4 : 2; // the last column; first: the node that has the first one for itself
      blocks[name].forEach((n, i) => (columns[last === ROWS ? i : first ? Number(n !== first) : Math.min(depths.indexOf(depth(n)), last)] ??= []).push(n));
      let right = x + PAD, bottom = y;
      for (const column of columns) {
        let top = y + TITLE + HEAD;
        for (const n of column) {
          n.pos = [right, top];
          top += n.size[1] + HEAD + ROW;
        }
        right += Math.max(...column.map((n) => n.size[0])) + GAP;
        bottom = Math.max(bottom, top - HEAD - ROW / 3);
      }
      const group = new LiteGraph.LGraphGroup(name);
      group.pos = [x, y];
      group.size = [right - GAP + PAD - x, bottom - y];
      group.color = color[name];
      graph.add(group);
      return { right: x + group.size[0], bottom: y + group.size[1] + GAP };
    }
    // Columns from left to right, each with its top. The lines of MODEL and VAE pass above the lower ones; pictures to start from lie below.
    function placeDaily() {
      const wired = !!blocks.Guidance, stacked = wired && blocks.Schedule, low = wired ? 0 : 180;
      const pictured = blocks.Start.find((n) => n.type === "LoadImage");
      const columns = [[low, "Prompt", pictured ? "" : "Start", stacked ? "" : "Guidance"], [low, "ControlNet"], [low, stacked ? "Guidance" : "", "Solver"], [low, "Schedule"],
        [wired ? 0 : 130, "Sample", stacked ? "Result" : ""], [0, stacked ? "" : "Result"]];
      text.setSize([270 + 2 * PAD, NOTE + 70]);
      const model = place("Model", 0, 0, 0);
      text.pos = [0, model.bottom + HEAD];
      let x = model.right, below = 0;
      const left = x + GAP;
      for (const [top, ...names] of columns) {
        let y = top, right = x;
        for (const name of names.filter((n) => blocks[n])) {
          const end = place(name, x + GAP, y, 0);
          [right, y] = [Math.max(right, end.right), end.bottom - GAP / 2];
        }
        x = right;
        if (!names.includes("Result")) below = Math.max(below, y);
      }
      if (pictured) place("Start", left, below, 1, pictured);
    }
    // left: the note, Schedule, Denoiser; middle: Solver, Guidance beside the Denoiser; right: Sample. Start goes where there is room
    const text = LiteGraph.createNode("MarkdownNote");
    text.title = "About this example";
    graph.add(text);
    text.widgets[0].value = note;
    text.pos = [0, HEAD];
    if (daily) placeDaily();
    else {
      const schedule = place("Schedule", 0, NOTE + HEAD + GAP), denoiser = place("Denoiser", 0, schedule.bottom);
      text.setSize([Math.max(schedule.right, denoiser.right), NOTE]);
      const middle = text.size[0] + GAP, solver = place("Solver", middle, 0), one = blocks.Solver.length === 1;
      const start = one ? place("Start", middle, solver.bottom) : place("Start", 0, denoiser.bottom, ROWS);
      const guidance = place("Guidance", middle, Math.max(schedule.bottom, one ? start.bottom : solver.bottom));
      place("Sample", Math.max(guidance.right, solver.right, start.right) + GAP, 0);
    }
    app.canvas.setDirty(true, true);

    // links: numbered in the order of the twin, so that a second run writes the same file
    const saved = graph.serialize(), number = {};
    saved.links.sort((a, b) => a[3] - b[3] || a[4] - b[4]).forEach((l, i) => { number[l[0]] = i + 1; l[0] = i + 1; });
    for (const n of saved.nodes) {
      n.inputs?.forEach((i) => { if (i.link) i.link = number[i.link]; });
      n.outputs?.forEach((o) => { o.links = o.links?.map((l) => number[l]).sort((a, b) => a - b) ?? null; });
    }
    saved.last_link_id = saved.links.length;
    saved.nodes.sort((a, b) => a.id - b.id);
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-1", new TextEncoder().encode(`${pack}/${stem}`)));
    saved.id = [...digest.slice(0, 16)].map((b) => b.toString(16).padStart(2, "0")).join("").replace(/^(.{8})(.{4}).(.{3}).(.{3})(.{12})$/, "$1-$2-5$3-8$4-$5");
    return saved;
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
          id: n.id, type: n.type, title: n.title, missing: !(n.type in LiteGraph.registered_node_types) || !!n.has_errors,
          files: !!n.properties.models || n.type === "LoadImage", // its file may be absent here
          displayName: n.constructor.nodeData?.display_name ?? n.constructor.title,
          box: [n.pos[0], n.pos[1] - 30, n.size[0], n.size[1] + 30], need: [...n.computeSize()],
        })),
      };
    }
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

// What nodes tell after a run, on the nodes themselves, in the real ComfyUI frontend, classic and Nodes 2.0.
//   node tests/browser/results.mjs [--url http://127.0.0.1:8188] [--shots DIR] [--only classic|nodes2]
import { eachRenderer, inside, page, panel, shot, show, test, until } from "./panels.mjs";

const kit = (type, inputs) => ({ class_type: `SamplingKit${type}`, inputs });
const GRAPH = {
  2: { class_type: "EmptyImage", inputs: { width: 32, height: 32, batch_size: 3, color: 0xffffff } },
  3: { class_type: "ImageInvert", inputs: { image: ["2", 0] } },
  4: kit("Difference", { a: ["2", 0], b: ["3", 0], gain: 10 }),
  5: kit("EmbeddedDenoiser", { kind: "gaussian", "kind.size": 32, "kind.scenes": 20, "kind.rank": 4 }), // each page has scenes of its own: the host tells nothing of a node whose result it keeps
  6: kit("InspectDenoiser", { model: ["5", 0] }),
  7: kit("DenoiserSettings", { model: ["5", 0], prediction: "as loaded", compute_dtype: "as loaded" }),
  8: kit("InspectDenoiser", { model: ["7", 0] }),
};
const NODES = ["Difference", "InspectDenoiser", "DenoiserSettings"];
const place = { 4: [0, 0], 6: [480, 0], 7: [480, 320], 8: [480, 640], 2: [-600, 0], 3: [-300, 0], 5: [-600, 400] };

const text = (type) => panel(type).locator(".sk-report").innerText();
const boxes = () => page.evaluate(() => Object.fromEntries(app.graph.nodes.map((n) => [n.id, [...n.size]])));

async function results() {
  await test("a node that reports has room for it before a run", async (expect) => {
    await page.evaluate(async ({ api, at }) => {
      await app.loadApiJson(api, "results");
      for (const n of app.graph.nodes) n.pos = at[n.id];
    }, { api: { ...GRAPH, 5: { ...GRAPH[5], inputs: { ...GRAPH[5].inputs, "kind.scenes": 10 + (Date.now() % 90) } } }, at: place });
    await page.waitForTimeout(500);
    await show();
    for (const type of NODES) {
      const box = await panel(type).boundingBox();
      expect(box?.height > 40 && box.width > 120, `${type} lies at ${JSON.stringify(box)}`);
      expect(/^What a run tells/.test(await panel(type).locator(".sk-note").innerText()), `${type} says ${await panel(type).innerText()}`);
    }
    expect((await page.locator('[data-of^="SamplingKitEmbeddedDenoiser"]').count()) === 0, "a node that tells nothing has a panel");
  });

  await test("a run is told on its nodes: tables, a picture, as text; no node grows", async (expect) => {
    const before = await boxes();
    await page.evaluate(() => app.queuePrompt(0));
    await until("the difference", () => text("Difference"), (t) => /image 2\s+1\s+1\s+0/.test(t), 120_000);
    await until("the model", () => text("InspectDenoiser"), (t) => /sigma max {2,}80/.test(t));
    await until("the settings", () => text("DenoiserSettings"), (t) => /^prediction: .* \(as loaded\)/.test(t));
    await until("the picture", () => panel("Difference").locator("img").evaluate((i) => i.complete && i.naturalWidth), (w) => w > 300);
    await show();
    const rows = await panel("Difference").locator(".sk-row").evaluateAll((all) => all.map((r) => [getComputedStyle(r).whiteSpace, r.getBoundingClientRect().height]));
    expect(rows.length === 4 && rows.every(([w, h]) => w === "pre" && Math.abs(h - rows[0][1]) < 1), `rows wrap: ${JSON.stringify(rows)}`);
    expect(JSON.stringify(await boxes()) === JSON.stringify(before), `sizes were ${JSON.stringify(before)}, are ${JSON.stringify(await boxes())}`);
    await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
    await panel("Difference").locator(".sk-copy").click();
    const copied = await page.evaluate(() => navigator.clipboard.readText());
    expect(/RMSE +largest +PSNR in dB\nimage 0 +1 +1 +0\n/.test(copied), `copied ${copied}`);
    await shot("results");
    for (const type of NODES) await shot(`results-${type}`, panel(type));
  });

  await test("reload keeps it; what is not a report is as if it were not there", async (expect) => {
    await page.waitForTimeout(2000);
    await page.reload();
    await page.waitForFunction((n) => window.app?.vueAppReady && app.graph?.nodes.length === n, Object.keys(GRAPH).length, { timeout: 120_000 });
    await show();
    await until("the difference", () => text("Difference"), (t) => /image 2\s+1\s+1\s+0/.test(t));
    expect((await panel("Difference").locator("img").evaluate((i) => i.naturalWidth)) > 300, "the picture is lost");
    await page.evaluate(inside.forge, { type: "SamplingKitDifference", text: '{"text":"x","pictures":["http://127.0.0.1:1/"]}' });
    await until("nothing is shown", () => panel("Difference").locator(".sk-note").innerText(), (t) => /^What a run tells/.test(t));
    await page.evaluate(inside.forge, { type: "SamplingKitDifference", text: "{" });
    await page.waitForTimeout(500);
    expect((await panel("Difference").locator("img").getAttribute("src")) === null, "a picture of elsewhere is asked for");
  });
}

await eachRenderer(results);

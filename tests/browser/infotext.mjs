// Settings of A1111 put into Sample: by its menu from the clipboard, and by a PNG dropped on it; one step of undo.
//   node tests/browser/infotext.mjs [--url http://127.0.0.1:8188] [--shots DIR] [--only classic|nodes2]
import { inPage } from "./page.mjs";
import { eachRenderer, hold, page, shot, show, test, until } from "./panels.mjs";

const TEXT = "a castle\nNegative prompt: blurry\nSteps: 9, Sampler: DPM++ 2M Karras, CFG scale: 3, Seed: 12, Size: 64x32, Clip skip: 2";
const kit = (type, inputs) => ({ class_type: `SamplingKit${type}`, inputs });
const GRAPH = {
  1: kit("EmbeddedDenoiser", { kind: "gaussian", "kind.size": 24, "kind.scenes": 4, "kind.rank": 2, space: "pixels" }),
  2: kit("ClassCondition", { name: "snow" }),
  4: kit("EmptyPixelLatent", { width: 24, height: 24, batch_size: 1 }),
  5: kit("Sample", { model: ["1", 0], positive: ["2", 0], latent_image: ["4", 0], seed: 7, steps: 8, cfg: 1, solver: "auto", spacing: "auto", denoise: 1 }),
  6: kit("LatentToImage", { latent: ["5", 0] }),
  7: { class_type: "PreviewImage", inputs: { images: ["6", 0] } },
};

const prompt = () => page.evaluate(inPage.prompt);
async function open() {
  await page.evaluate((graph) => app.loadApiJson(graph, "infotext"), GRAPH);
  await page.evaluate(() => { app.canvas.emitBeforeChange(); app.canvas.emitAfterChange(); });
  await page.waitForTimeout(300);
  await show();
  return prompt();
}

async function taken(expect, before) {
  const now = await until("the settings", prompt, (all) => all["5"].inputs.steps === 9);
  const { seed, steps, cfg, solver, spacing, denoise } = now["5"].inputs;
  expect(JSON.stringify([seed, steps, cfg, solver, spacing, denoise]) === '[12,9,3,"DPM++ 2M","karras",1]', JSON.stringify(now["5"].inputs));
  expect(now["4"].inputs.width === 64 && now["4"].inputs.height === 32, JSON.stringify(now["4"].inputs));
  await until("what has no counterpart", () => page.evaluate(() => document.body.innerText), (text) => text.includes("CLIP Set Last Layer") && text.includes("positive: a castle"), 10_000);
  await shot("infotext");
  await page.evaluate(() => document.activeElement?.blur());
  await hold("Control", "z");
  await until("one undo", async () => JSON.stringify(await prompt()), (text) => text === JSON.stringify(before), 10_000);
}

await eachRenderer(async () => {
  await test("the menu of Sample takes settings from the clipboard", async (expect) => {
    const before = await open();
    await page.evaluate(async (text) => {
      Object.defineProperty(navigator, "clipboard", { configurable: true, value: { readText: async () => text } });
      const { infotextMenu } = await import("/extensions/comfyui-sampling-kit/js/infotext.js");
      const node = app.graph.nodes.find((n) => n.type === "SamplingKitSample");
      await infotextMenu(node)[0].callback();
    }, TEXT);
    await taken(expect, before);
    const entries = await page.evaluate(() => app.extensionManager && app.graph.nodes.filter((n) => n.type === "SamplingKitSample").flatMap((n) =>
      app.extensions.find((e) => e.name === "SamplingKit.Widgets").getNodeMenuItems(n)).map((item) => item?.content));
    expect(entries.includes("Paste A1111 settings"), entries.join());
  });

  await test("a PNG dropped on Sample sets its widgets", async (expect) => {
    const before = await open();
    const done = await page.evaluate(async (text) => {
      const canvas = new OffscreenCanvas(4, 4);
      canvas.getContext("2d");
      const png = new Uint8Array(await (await canvas.convertToBlob({ type: "image/png" })).arrayBuffer());
      const data = new TextEncoder().encode(`parameters\0${text}`), part = new Uint8Array(data.length + 12);
      new DataView(part.buffer).setUint32(0, data.length);
      part.set(new TextEncoder().encode("tEXt"), 4);
      part.set(data, 8); // its checksum is not looked at
      const file = new File([png.subarray(0, 33), part, png.subarray(33)], "shared.png", { type: "image/png" });
      const transfer = new DataTransfer();
      transfer.items.add(file);
      const node = app.graph.nodes.find((n) => n.type === "SamplingKitSample"), event = { dataTransfer: transfer };
      return node.onDragOver(event) && await node.onDragDrop(event);
    }, TEXT);
    expect(done === true, `not taken: ${done}`);
    await taken(expect, before);
  });
});

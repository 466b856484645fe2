// Settings that people share from A1111, Forge and picture sites, put into Sample and the nodes before it: by the node's
// menu, or by a PNG dropped on it. What the text means is the server's to say (nodes/sample/infotext.py).

import { app } from "../../../scripts/app.js";
import { ask } from "./live.js";
import { parametersOf } from "./png_text.js";
import { say } from "./words.js";

const SAMPLE = "SamplingKitSample", READER = "SamplingKitA1111Settings";
const WIDGETS = ["seed", "steps", "cfg", "solver", "spacing", "denoise"];
const MOST_HEAD = 1 << 20, LIFE = 12000; // bytes of a PNG before its pixels, ms that a message stays

const toast = (severity, detail) => app.extensionManager.toast.add({ severity, summary: "A1111", detail, life: LIFE });
const valueOf = (node, name) => node?.widgets?.find((w) => w.name === name);

function put(node, name, value) {
  const w = valueOf(node, name);
  if (!w) return false;
  w.value = value;
  w.callback?.(value);
  node.setDirtyCanvas(true);
  return true;
}

// the node that an input comes from
function before(node, name) {
  const slot = node.findInputSlot?.(name);
  return slot >= 0 ? node.getInputNode(slot) : null;
}

async function paste(node, text) {
  const [told] = await ask([JSON.stringify({ node: "1", graph: { 1: { class_type: READER, inputs: { text } } } })]);
  if (!told.settings) return toast("error", told.error ?? "");
  const settings = told.settings, left = [...settings.said];
  app.canvas.emitBeforeChange();
  for (const name of WIDGETS) put(node, name, settings[name]);
  for (const name of ["positive", "negative"])
    if (settings[name] && !put(before(node, name), "text", settings[name])) left.push(`${name}: ${settings[name]}`);
  const latent = before(node, "latent_image"), sized = put(latent, "width", settings.width) && put(latent, "height", settings.height);
  if (!sized) left.push(`${settings.width} × ${settings.height}`);
  app.canvas.emitAfterChange();
  const done = WIDGETS.map((name) => `${name} ${settings[name]}`).join(", ");
  toast(left.length ? "warn" : "success", [done, ...left].join("\n"));
}

async function ofClipboard() {
  try {
    const text = await navigator.clipboard.readText();
    if (/Steps:\s*\d/.test(text)) return text;
  } catch { /* no permission, or no secure page: the person pastes it */ }
  return app.extensionManager.dialog.prompt({
    title: "A1111", message: say("Paste the text under the picture: prompt, negative prompt, Steps: …"), defaultValue: "",
  });
}

export function infotextMenu(node) {
  if (node.comfyClass !== SAMPLE) return [];
  return [{ content: say("Paste A1111 settings"), callback: async () => {
    const text = await ofClipboard();
    if (text) await paste(node, text);
  } }];
}

export function takeDrops(node) {
  if (node.comfyClass !== SAMPLE) return;
  node.onDragOver = (event) => [...(event.dataTransfer?.items ?? [])].some((item) => item.type === "image/png");
  node.onDragDrop = async (event) => {
    const file = event.dataTransfer?.files?.[0];
    if (file?.type !== "image/png") return false;
    const text = parametersOf(new Uint8Array(await file.slice(0, MOST_HEAD).arrayBuffer()));
    if (text === null) return false;
    await paste(node, text);
    return true;
  };
}

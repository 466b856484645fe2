import assert from "node:assert/strict";
import test from "node:test";
import { needed } from "../../web/js/width.js";

const length = (text, font) => text.length * (font.startsWith("14") ? 8 : 7);

test("a node is as wide as its title and the widest of its rows, but not endless", () => {
  const row = (name, value, more = {}) => ({ name, value, type: "combo", ...more });
  assert.equal(needed({ title: "Noise Schedule from Model" }, length), 25 * 8 + 76);
  assert.equal(needed({ title: "VP", widgets: [row("file", "network-cfg2-forward.safetensors")] }, length), 36 * 7 + 96);
  assert.equal(needed({ title: "VP", widgets: [row("values", "x".repeat(90), { type: "text" }), row("panel", "x".repeat(90), { element: {} })] }, length), 6 * 7 + 96);
  assert.equal(needed({ title: "x".repeat(90) }, length), 400);
});

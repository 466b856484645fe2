import assert from "node:assert/strict";
import test from "node:test";
import { parametersOf } from "../../web/js/png_text.js";

const bytes = (text, coding = "utf8") => Buffer.from(text, coding);
function part(kind, data) {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(data.length);
  return Buffer.concat([length, bytes(kind), data, Buffer.alloc(4)]);
}
const png = (...parts) => new Uint8Array(Buffer.concat([Buffer.alloc(8), part("IHDR", Buffer.alloc(13)), ...parts]));
const pixels = part("IDAT", Buffer.alloc(40));

test("the text of a PNG, as Latin-1 or as Unicode", () => {
  const latin = part("tEXt", Buffer.concat([bytes("parameters\0"), bytes("a café\nSteps: 3", "latin1")]));
  const unicode = part("iTXt", bytes("parameters\0\0\0\0\0城堡\nSteps: 3"));
  const other = part("tEXt", bytes("prompt\0{}"));
  assert.equal(parametersOf(png(other, latin, pixels)), "a café\nSteps: 3");
  assert.equal(parametersOf(png(unicode, pixels)), "城堡\nSteps: 3");
});

test("no text, text behind the pixels, packed text, a file cut off", () => {
  const text = part("tEXt", bytes("parameters\0Steps: 3"));
  const packed = part("iTXt", bytes("parameters\0\x01\0\0\0xx"));
  for (const file of [png(pixels), png(pixels, text), png(packed, pixels), png(text).subarray(0, 20), new Uint8Array(3)]) assert.equal(parametersOf(file), null);
});

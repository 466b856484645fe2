import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import test from "node:test";
import { COLORS } from "../../web/js/colors.js";
import { short } from "../../web/js/dom.js";
import { asText, facts, positions, stepOf, valuesOf } from "../../web/js/levels.js";
import { markdown, shade } from "../../web/js/table.js";
import { say, speak } from "../../web/js/words.js";

const RUN = { name: "Karras, 3", steps: 3, every: 1, sigma: [14.61, 3.2, 0.03, 0], lambda: [-2.68, -1.16, 3.5, null], timestep: null };

test("numbers are short", () => {
  const pairs = [[14.614642, "14.61"], [0, "0"], [-0.00293714, "−0.002937"], [1.234e-7, "1.2e−7"], [2e6, "2e6"], [null, "–"], [NaN, "–"], [1000, "1000"], ["3 terms", "3 terms"]];
  for (const [value, text] of pairs) assert.equal(short(value), text);
});

test("copied text is a list that Steps takes", () => {
  assert.equal(asText([RUN], "log_sigma"), "14.61, 3.2, 0.03, 0");
  assert.equal(asText([RUN, RUN], "lambda"), "-2.68, -1.16, 3.5\n-2.68, -1.16, 3.5");
  assert.equal(asText([RUN], "timestep"), "");
});

test("positions of all levels, and of a thinned run", () => {
  assert.deepEqual(positions(RUN, "step"), [0, 1, 2, 3]);
  assert.deepEqual(positions(RUN, "progress"), [0, 1 / 3, 2 / 3, 1]);
  assert.deepEqual(positions({ ...RUN, steps: 10, every: 4 }, "step"), [0, 4, 8, 10]);
});

test("the tooltip says what is known", () => {
  assert.equal(`${stepOf(RUN, 1)}\n${facts(RUN, 1)}`, "step 1\nσ 3.2\nλ −1.16");
  assert.equal(valuesOf(RUN, "log_sigma"), RUN.sigma);
});

test("shades of the heat map rise with size and end at 45", () => {
  assert.equal(shade(0, 2), 0);
  assert.equal(shade(-2, 2), 45);
  assert.ok(shade(0.01, 2) > 0 && shade(0.01, 2) < shade(0.5, 2));
});

test("a plan as Markdown", () => {
  assert.equal(markdown({ columns: ["stage", "x[0]", "D[0]"], rows: [[0, 1, null]] }), "| stage | x[0] | D[0] |\n| --- | --- | --- |\n| 0 | 1 |  |");
});

test("every wire type of the pack has a colour", () => {
  const types = [...readFileSync(new URL("../../nodes/ui/wire_types.py", import.meta.url), "utf8").matchAll(/io\.Custom\("(\w+)"\)/g)].map((m) => m[1]);
  assert.ok(types.length > 3);
  for (const type of types) assert.match(COLORS[type] ?? "", /^#[0-9a-f]{6}$/, type);
});

test("all of it is small, and imports nothing of the host's but its two public modules", () => {
  const folder = new URL("../../web/js/", import.meta.url), files = readdirSync(folder).filter((f) => f.endsWith(".js"));
  const texts = files.map((f) => readFileSync(new URL(f, folder), "utf8"));
  assert.ok(texts.join("").length < 100_000);
  for (const text of texts)
    for (const [, from] of text.matchAll(/^import .* from "(.+)";$/gm)) assert.match(from, /^\.\/\w+\.js$|^(\.\.\/){3}scripts\/(app|api)\.js$/);
  assert.doesNotMatch(texts.join(""), /\.prototype\b|innerHTML|\beval\(/);
});

test("what the widgets say has a translation, with the same blanks", () => {
  const folder = new URL("../../web/js/", import.meta.url);
  const texts = readdirSync(folder).map((f) => readFileSync(new URL(f, folder), "utf8"));
  const said = new Set(texts.flatMap((text) => [...text.matchAll(/\bsay\("([^"]+)"/g)].map((m) => m[1])));
  assert.ok(said.size > 25);
  speak("zh");
  for (const text of said) {
    assert.notEqual(say(text), text);
    assert.equal((say(text, "@", "@", "@", "@").match(/@/g) ?? []).length, (text.match(/\{\}/g) ?? []).length, text);
  }
  speak("en");
  assert.equal(say("step {}", 3), "step 3");
});

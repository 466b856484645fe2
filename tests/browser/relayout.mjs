// Places for the nodes of templates, without a page, from what `examples.mjs --sizes FILE` has measured in both renderers.
//   node tests/browser/relayout.mjs --sizes FILE [--write] [--tries 8] [--good 0] [--seed 1] [--rounds 14000] [stem ...]
// Prints crossings, links behind a foreign node, links that lead back, points and size of each; --write: writes what is within the bars.
// --good: tries to make even where an earlier one is within the bars. Exit code 1 where one is over its bars.
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { arranged } from "./arrange.mjs";

const folder = new URL("../../example_workflows/", import.meta.url);
const number = (value) => ({ type: "string", default: value });
const { values: options, positionals } = parseArgs({ allowPositionals: true, options: { sizes: { type: "string" }, write: { type: "boolean" }, tries: number("8"), good: number("0"), seed: number("1"), rounds: number("14000") } });
const kept = JSON.parse(readFileSync(options.sizes, "utf8")), settings = Object.fromEntries(["tries", "good", "seed", "rounds"].map((name) => [name, Number(options[name])]));

for (const stem of positionals.length ? positionals : Object.keys(kept)) {
  const { ui, facts } = arranged(kept[stem].ui, kept[stem].sizes, settings);
  if (options.write && !facts.over) writeFileSync(fileURLToPath(new URL(`${stem}.json`, folder)), `${JSON.stringify(ui, null, 1)}\n`);
  if (facts.over) process.exitCode = 1;
  console.log(`${stem.padEnd(34)} ${facts.crossings} crossings, ${facts.behind} behind, ${facts.back} back, ${facts.points} points, ${Math.round(facts.wide)} × ${Math.round(facts.high)}${facts.over ? "  <" : ""}`);
}

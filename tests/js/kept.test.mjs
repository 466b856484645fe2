import assert from "node:assert/strict";
import test from "node:test";
import { MOST_PINNED, MOST_REPORT, checked, checkedReport } from "../../web/js/kept.js";

const run = { name: "a", steps: 2, every: 1, sigma: [2, 1, 0], lambda: [-1, 0, null], timestep: null };
const plan = { columns: ["stage", "x[0]"], rows: [[0, 1.5], [1, null]], stages: 2, nfe: 2, order: 1, steps: 2, path: "VE", solver: "Euler()" };

test("what the panels keep comes back as it is", () => {
  const kept = { y: "sigma", x: "progress", curve: "rmse", run: "m1abc", schedule: "0".repeat(32), took: { solver: "Euler", steps: 20, cfg: 2, denoise: 1, levels: "14.6, 2e-05" }, pins: [run], last: { runs: [run], plan } };
  assert.deepEqual(checked(JSON.parse(JSON.stringify(kept))), kept);
  assert.deepEqual(checked(undefined), {});
});

const JUNK = [null, 0, -1, Infinity, NaN, "", "x", "__proto__", "constructor", true, [], [[]], {}, [null], { length: 1e9 }, { sigma: "abc" }, "x".repeat(1e6),
  [{ ...run, sigma: 5 }], [{ ...run, sigma: [{}] }], [{ ...run, lambda: [1] }], [{ ...run, every: 0 }], [{ ...run, steps: -1 }], [{ ...run, name: {} }],
  [{ ...run, sigma: ["1", 2, 3] }], { runs: "x", plan: { ...plan, rows: [[1]] } }, { plan: { ...plan, columns: [{}] } }, { plan: { ...plan, rows: [[{}, 1]] } }];

test("junk is as if it were not there", () => {
  for (const junk of JUNK) {
    const made = checked(junk);
    assert.ok(Object.keys(made).every((name) => ["y", "x", "curve", "run", "schedule", "took", "pins", "last"].includes(name)));
    for (const name of ["y", "x", "pins", "last", "run", "schedule", "took", "curve"]) {
      const got = checked({ [name]: junk })[name];
      if (name === "pins") assert.deepEqual(got ?? [], []);
      else if (["run", "curve"].includes(name)) assert.ok(got === undefined || (typeof got === "string" && got.length <= 200));
      else assert.equal(got, undefined, `${name} ${JSON.stringify(junk)?.slice(0, 60)}`);
    }
  }
});

test("lists are bounded, names are cut, other fields go", () => {
  const long = { ...run, sigma: Array(MOST_PINNED + 1).fill(1), lambda: null };
  assert.deepEqual(checked({ pins: [long] }).pins, []);
  assert.deepEqual(checked({ pins: [run, run, run, run] }).pins, []);
  const [pin] = checked({ pins: [{ ...run, name: "x".repeat(1e5), onclick: "alert(1)" }] }).pins;
  assert.equal(pin.name.length, 200);
  assert.equal(pin.onclick, undefined);
});

test("a report is text and pictures that hold themselves", () => {
  const report = { text: "a  b", pictures: ["data:image/png;base64,AAAA", "data:image/jpeg;base64,AA=="] };
  assert.deepEqual(checkedReport({ ...report, more: 1 }), report);
  const others = ["http://a/b.png", "data:image/svg+xml;base64,AAAA", 'data:image/png;base64,AA"', "javascript:alert(1)", "x".repeat(1e6), null, {}];
  for (const other of others) assert.equal(checkedReport({ ...report, pictures: [other] }), null);
  for (const other of [...JUNK, { ...report, text: 1 }, { ...report, text: "x".repeat(MOST_REPORT + 1) }, { ...report, pictures: Array(99).fill(report.pictures[0]) }]) assert.equal(checkedReport(other), null);
});

import assert from "node:assert/strict";
import test from "node:test";
import { decades, nearest, rounds, scale } from "../../web/js/scale.js";

test("a scale maps its ends to 0 and 1, and ticks lie inside", () => {
  for (const log of [false, true]) {
    const s = scale([3, null, 0.02, 150], log);
    assert.ok(Math.abs(s.at(0.02)) < 1e-12 && Math.abs(s.at(150) - 1) < 1e-12);
    assert.ok(s.ticks.length >= 2 && s.ticks.every((t) => s.at(t) >= -1e-9 && s.at(t) <= 1 + 1e-9), `${s.ticks}`);
  }
});

test("ticks are round numbers", () => {
  assert.deepEqual(rounds(0, 20, 4), [0, 5, 10, 15, 20]);
  assert.deepEqual(rounds(-5, 4.6, 4), [-4, -2, 0, 2, 4]);
  assert.deepEqual(rounds(0, 1, 4), [0, 0.2, 0.4, 0.6, 0.8, 1]);
  assert.deepEqual(decades(0.01, 150, 4), [0.01, 0.1, 1, 10, 100]);
  assert.deepEqual(decades(2, 9, 4), [2, 5]);
});

test("a constant, nothing, and numbers that no scale has", () => {
  assert.equal(scale([]), null);
  assert.equal(scale([null, NaN]), null);
  assert.equal(scale([0, -1], true), null);
  for (const value of [0, 5, -3]) assert.equal(scale([value, value]).at(value), 0.5);
  assert.ok(Math.abs(scale([7], true).at(7) - 0.5) < 1e-12);
});

test("a million values are no deep recursion", () => {
  assert.equal(scale(Array.from({ length: 1e6 }, (_, i) => i)).high, 999999);
});

test("nearest", () => {
  assert.equal(nearest([0, 1, 2, 10], 6.1), 3);
  assert.equal(nearest([0, 1, 2, 10], -4), 0);
});

test("no numbers make a loop without end", () => {
  const far = [2e16, 2e16 + 4, 2e16 + 8, Number.MAX_VALUE, -Number.MAX_VALUE, Number.MIN_VALUE, 0, 1e-320, -3, 2 ** 53, 2 ** 53 + 2, 1e308];
  for (const a of far) for (const b of far) for (const log of [false, true]) for (const count of [2, 4, 40]) {
    const s = scale([a, b], log, count);
    if (!s) continue;
    assert.ok(s.ticks.length <= 101 && s.ticks.every(Number.isFinite), `${a} ${b} ${log} ${s.ticks}`);
    for (const value of [a, b]) if (!log || value > 0) assert.ok(Math.abs(s.at(value) - 0.5) <= 0.5 + 1e-9, `${a} ${b} ${log} ${value}`);
  }
  assert.ok(scale([2e16, 2e16 + 8]).ticks.length >= 1);
});

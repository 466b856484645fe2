import assert from "node:assert/strict";
import test from "node:test";
import { format, GAP, insert, MOST, move, parse, remove } from "../../web/js/curve.js";

const THREE = [[0, 1], [0.5, 0.5], [1, 0]];
const falling = (points) => points.every((p, i) => i === 0 || (p[0] > points[i - 1][0] && p[1] < points[i - 1][1]));

test("text and points are each other's inverse", () => {
  assert.deepEqual(parse("0:1, 0.5:0.5, 1:0"), THREE);
  assert.deepEqual(parse("0:1;0.5:0.5,1:0"), THREE);
  assert.equal(format(THREE), "0:1, 0.5:0.5, 1:0");
  assert.deepEqual(parse(format([[0, 0.98765], [1, 1e-9]])), [[0, 0.988], [1, 0]]);
});

test("what Python refuses is no curve here either", () => {
  const wrong = ["", "1, 2, 3", "0:1", "0:1, 0.5:0.5", "0.1:1, 1:0", "0:1, 0.5:0.5, 0.5:0.4, 1:0", "0:0, 1:1", "0:1, 0.5:1, 1:0", "0:2, 1:0",
    "0:1, 1:-1", "0:nan, 1:0", "0:1, x:0.5, 1:0", "0:1, 1:", "0:1:2, 1:0", Array.from({ length: MOST + 1 }, (_, i) => `${i / MOST}:${1 - i / MOST}`).join()];
  for (const text of wrong) assert.equal(parse(text), null, text);
});

test("a point stays between its neighbours, the ends keep their progress", () => {
  assert.deepEqual(move(THREE, 1, 0.3, 0.7), [[0, 1], [0.3, 0.7], [1, 0]]);
  assert.deepEqual(move(THREE, 1, 5, -5)[1], [1 - GAP, GAP]);
  assert.deepEqual(move(THREE, 0, 0.4, 0.2)[0], [0, 0.5 + GAP]);
  assert.deepEqual(move(THREE, 2, 0.4, 0.9)[2], [1, 0.5 - GAP]);
  assert.deepEqual(THREE[1], [0.5, 0.5], "the old points are not changed");
});

test("any series of moves, insertions and removals leaves a curve", () => {
  let points = THREE, seed = 1;
  const random = () => (seed = (seed * 16807) % 2147483647) / 2147483647;
  for (let i = 0; i < 3000; i++) {
    const k = Math.floor(random() * points.length), act = random();
    if (act < 0.6) points = move(points, k, random() * 1.4 - 0.2, random() * 1.4 - 0.2);
    else if (act < 0.85) points = insert(points, random(), random());
    else points = remove(points, k);
    assert.ok(falling(points) && points.length >= 2 && points.length <= MOST, format(points));
    assert.deepEqual(parse(format(points)), points);
  }
});

test("there is no point without room for it", () => {
  const tight = [[0, 1], [GAP, 1 - GAP], [1, 0]];
  assert.equal(insert(tight, GAP / 2, 1), tight);
  assert.equal(remove(THREE, 0), THREE);
  assert.equal(remove(THREE, 2), THREE);
  assert.deepEqual(remove(THREE, 1), [[0, 1], [1, 0]]);
});

import assert from "node:assert/strict";
import test from "node:test";
import { MOST_REPORT, checkedReport } from "../../web/js/kept.js";
import { reportOf, roomOf } from "../../web/js/results.js";

test("every node of ours that reports has room, with more of it for pictures", () => {
  assert.equal(roomOf({ name: "KSampler", output_node: true, output: [] }), null);
  assert.equal(roomOf({ name: "SamplingKitSteps", output_node: false, output: ["SIGMAS"] }), null);
  assert.equal(roomOf(undefined), null);
  const text = roomOf({ name: "SamplingKitDistances", output_node: true, output: ["FLOAT", "STRING"] });
  const picture = roomOf({ name: "SamplingKitDifference", output_node: true, output: ["IMAGE", "STRING"] });
  assert.ok(picture.height > text.height && text.height >= 100);
  assert.ok(roomOf({ name: "SamplingKitFittedSolver", output_node: false, output: ["SAMPLER"] }));
});

test("a node's output as a report", () => {
  assert.deepEqual(reportOf({ text: ["a", "b"], sampling_kit_picture: ["data:image/png;base64,AA=="] }), { text: "a\nb", pictures: ["data:image/png;base64,AA=="] });
  assert.deepEqual(reportOf({ text: "a" }), { text: "a", pictures: [] });
  for (const none of [undefined, null, {}, { images: [{}] }, { text: [] }]) assert.equal(reportOf(none), null);
  assert.ok(checkedReport(reportOf({ text: ["x".repeat(2 * MOST_REPORT)] })));
});

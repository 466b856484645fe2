import assert from "node:assert/strict";
import test from "node:test";
import { request } from "../../web/js/upstream.js";

// LiteGraph in twenty lines: graphs of nodes with inputs, links and subgraphs
class Graph {
  constructor(root) { this.nodes = []; this.links = new Map(); this.rootGraph = root ?? this; this.subgraphs = new Map(); }
  getLink(id) { return this.links.get(id); }
  getNodeById(id) { return this.nodes.find((n) => n.id === id) ?? null; }
  add(type, { widgets = {}, inputs = {}, ...more } = {}) {
    const node = { id: this.nodes.length + 1, type, title: type, mode: 0, graph: this, ...more };
    node.widgets = Object.entries(widgets).map(([name, value]) => ({ name, value }));
    node.inputs = Object.entries(inputs).map(([name, from]) => ({ name, type: "T", link: from && this.link(node.id, ...from) }));
    this.nodes.push(node);
    return node;
  }
  link(target_id, origin, origin_slot = 0) {
    const id = this.links.size + 1;
    this.links.set(id, { id, origin_id: origin?.id ?? origin, origin_slot, target_id });
    return id;
  }
}
const schedule = (graph) => graph.add("SamplingKitNoiseSchedule", { widgets: { kind: "vp_linear", "kind.timesteps": 1000 } });
const steps = (graph, from) => graph.add("SamplingKitSteps", { widgets: { steps: 20 }, inputs: { noise_schedule: from && [from] } });
const EXPECTED = {
  1: { class_type: "SamplingKitSteps", title: "SamplingKitSteps", inputs: { steps: 20, noise_schedule: ["2", 0] } },
  2: { class_type: "SamplingKitNoiseSchedule", title: "SamplingKitNoiseSchedule", inputs: { kind: "vp_linear", "kind.timesteps": 1000 } },
};

test("widgets and links become the API's form", () => {
  const graph = new Graph();
  assert.deepEqual(request(steps(graph, schedule(graph))), { node: "1", graph: EXPECTED });
});

test("an input that is not connected is left out", () => {
  assert.deepEqual(request(steps(new Graph(), null)).graph[1].inputs, { steps: 20 });
});

test("a node of another pack is named, not opened", () => {
  const graph = new Graph(), other = graph.add("CheckpointLoader", { title: "My model", widgets: { secret: "x" } });
  assert.deepEqual(request(steps(graph, other)).graph[2], { class_type: "CheckpointLoader", title: "My model" });
});

test("a source with two readers is sent once", () => {
  const graph = new Graph(), source = schedule(graph), a = steps(graph, source), b = steps(graph, source);
  const plot = graph.add("SamplingKitPlotSchedule", { inputs: { "sigmas.sigmas0": [a], "sigmas.sigmas1": [b] } });
  assert.deepEqual(Object.keys(request(plot).graph).length, 4);
});

test("through reroutes and bypassed nodes; a muted node is named so", () => {
  const graph = new Graph(), source = schedule(graph);
  const reroute = graph.add("Reroute", { isVirtualNode: true, inputs: { "": [source] } });
  const bypassed = graph.add("Other", { mode: 4, inputs: { a: [reroute] } });
  assert.deepEqual(request(steps(graph, bypassed)).graph, EXPECTED);
  source.mode = 2;
  assert.match(request(steps(graph, source)).graph[2].title, /muted/);
});

test("a primitive is its value", () => {
  const graph = new Graph(), number = graph.add("PrimitiveNode", { isVirtualNode: true, widgets: { value: 12 } });
  const node = graph.add("SamplingKitSteps", { widgets: { steps: 20 }, inputs: { steps: [number] } });
  assert.equal(request(node).graph[1].inputs.steps, 12);
});

test("into a subgraph and out of one", () => {
  const root = new Graph(), inner = new Graph(root);
  root.subgraphs.set("s", inner);
  inner.outputs = [{ linkIds: [inner.link(-20, schedule(inner))] }];
  const box = root.add("box", { subgraph: inner });
  assert.deepEqual(request(steps(root, box)).graph, EXPECTED);

  const outer = new Graph(), around = new Graph(outer);
  outer.subgraphs.set("s", around);
  outer.add("box", { subgraph: around, inputs: { noise_schedule: [schedule(outer)] } });
  assert.deepEqual(request(steps(around, -10)).graph, EXPECTED);
});

test("a graph that runs in a circle ends", () => {
  const graph = new Graph(), a = steps(graph, null), b = steps(graph, a);
  a.inputs[0].link = graph.link(a.id, b);
  assert.equal(Object.keys(request(a).graph).length, 2);
  const reroute = graph.add("Reroute", { isVirtualNode: true, inputs: { "": null } });
  reroute.inputs[0].link = graph.link(reroute.id, reroute);
  assert.deepEqual(request(steps(graph, reroute)).graph[1].inputs, { steps: 20 });
});

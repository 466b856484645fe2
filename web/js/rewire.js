// Nodes in place of others on the canvas: links moved, values set, room made. Public methods of graph and nodes only.

const INSIDE = -10, OUTSIDE = -20; // the two sides of a subgraph, as ends of links

export const slotOf = (node, name) => node.inputs?.findIndex((input) => input.name === name) ?? -1;
export const widgetOf = (node, name) => node.widgets?.find((w) => w.name === name);

// the link of an input, or undefined
export function linkOf(node, name) {
  const id = node.inputs?.[slotOf(node, name)]?.link;
  return id === null || id === undefined ? undefined : node.graph.getLink(id);
}

export function setValue(node, name, value) {
  const w = widgetOf(node, name);
  if (!w || value === undefined) return;
  w.value = value;
  w.callback?.(value);
}

// What a link comes from also leads to that input; through the same reroute.
export function feed(link, node, name) {
  const slot = slotOf(node, name), { graph } = node;
  if (!link || slot < 0) return;
  if (Number(link.origin_id) === INSIDE) graph.inputNode.slots[link.origin_slot].connect(node.inputs[slot], node, link.parentId);
  else graph.getNodeById(link.origin_id)?.connect(link.origin_slot, node, slot, link.parentId);
}

export const connect = (from, output, to, name) => from.connect(output, to, slotOf(to, name));

// What an output of `from` leads to, one of `to` leads to. Returns how many links.
export function hand(from, output, to, slot) {
  const { graph } = from, links = (from.outputs?.[output]?.links ?? []).map((id) => graph.getLink(id)).filter(Boolean);
  for (const link of links) {
    if (Number(link.target_id) === OUTSIDE) graph.outputNode.slots[link.target_slot].connect(to.outputs[slot], to, link.parentId);
    else to.connect(slot, graph.getNodeById(link.target_id), link.target_slot, link.parentId);
  }
  return links.length;
}

export function place(graph, type, [x, y], values = {}) {
  const node = globalThis.LiteGraph.createNode(type);
  if (!node) return null;
  graph.add(node);
  node.pos = [x, y];
  const { required, optional } = node.constructor.nodeData?.input ?? {};
  for (const [name, [type_, options]] of Object.entries({ ...required, ...optional })) // a page may give a new node the values of one that is gone
    setValue(node, name, options?.default ?? (Array.isArray(type_) ? type_[0] : undefined));
  for (const [name, value] of Object.entries(values)) setValue(node, name, value);
  return node;
}

// Nodes right of and below a box [x, y, w, h] move on, where it grows to w × h.
export function makeRoom(graph, [x, y, w, h], wide, high, besides) {
  const right = Math.max(0, wide - w), down = Math.max(0, high - h), near = 40;
  for (const node of graph.nodes) {
    if (besides.includes(node)) continue;
    const [a, b] = node.pos;
    if (right && a >= x + w - 1) node.pos = [a + right, b];
    else if (down && b >= y + h - 1 && a < x + wide + near && a + node.size[0] > x) node.pos = [a, b + down];
  }
}

// one step for undo
export function atOnce(canvas, act) {
  canvas.emitBeforeChange();
  try { return act(); } finally {
    canvas.emitAfterChange();
    canvas.setDirty(true, true);
  }
}

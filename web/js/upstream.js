// The part of the graph that leads to a node, as the route wants it (nodes/ui/live_route.py). Walks links only; changes nothing.

const OURS = "SamplingKit", BYPASSED = 4, MUTED = 2;

// {node, graph}; nodes of other packs are named, not opened
export function request(node) {
  const graph = {}, ids = new Map();
  function visit(at) {
    if (ids.has(at.node)) return ids.get(at.node);
    const id = String(ids.size + 1), entry = { class_type: at.node.type, title: at.node.title };
    ids.set(at.node, id);
    graph[id] = entry;
    if (String(at.node.type).startsWith(OURS)) {
      const name = at.node.properties?.sampling_kit?.schedule; // of the noise schedule of its last run
      if (typeof name === "string" && /^[0-9a-f]{32}$/.test(name)) entry.remembered = name;
      entry.inputs = inputs(at, visit);
    }
    return id;
  }
  return { node: visit({ node, inside: [] }), graph };
}

function inputs(at, visit) {
  const given = {};
  for (const w of at.node.widgets ?? []) if (w.serialize !== false && w.name && w.value !== undefined) given[w.name] = w.value;
  at.node.inputs?.forEach((input, slot) => {
    if (input.link === null || input.link === undefined) return;
    const from = source(at, slot, input.type);
    const constant = from && /^Primitive/.test(from.node.type) ? from.node.widgets?.[0]?.value : undefined;
    if (from) given[input.name] = constant ?? [visit(from), from.slot];
  });
  return given;
}

// what an input is connected to: {node, slot, inside}, through reroutes, bypassed nodes and the walls of subgraphs
export function source(at, slot, type, left = 100) {
  const { node, inside } = at, graph = node.graph;
  const link = node.inputs?.[slot]?.link === null ? null : graph?.getLink?.(node.inputs[slot].link);
  if (!link || left === 0) return null;
  if (Number(link.origin_id) === -10) { // the subgraph's own input
    const around = inside.at(-1) ?? wrapper(graph);
    return around ? source({ node: around, inside: inside.slice(0, -1) }, link.origin_slot, type, left - 1) : null;
  }
  return opened({ node: graph.getNodeById(link.origin_id), slot: Number(link.origin_slot), inside }, type, left - 1);
}

function opened(from, type, left) {
  const { node, slot, inside } = from;
  if (!node || left === 0) return null;
  if (node.mode === MUTED) return from.node && { node: { type: "muted", title: `${node.title} (muted)` }, slot, inside };
  if (node.mode === BYPASSED) {
    const same = node.inputs?.findIndex((input) => input.type === type) ?? -1;
    return same < 0 ? null : source({ node, inside }, same, type, left);
  }
  if (node.subgraph) {
    const link = node.subgraph.getLink?.(node.subgraph.outputs?.[slot]?.linkIds?.[0]);
    return link ? opened({ node: node.subgraph.getNodeById(link.origin_id), slot: Number(link.origin_slot), inside: [...inside, node] }, type, left - 1) : null;
  }
  if (node.isVirtualNode) {
    const beyond = node.resolveVirtualOutput?.(slot);
    if (beyond) return opened({ ...beyond, inside }, type, left - 1);
    return node.inputs?.length ? source({ node, inside }, 0, type, left) : from;
  }
  return from;
}

// the node that stands for a subgraph; the first, where several do
function wrapper(subgraph) {
  const root = subgraph.rootGraph ?? subgraph, graphs = [root, ...(root.subgraphs?.values?.() ?? [])];
  return graphs.flatMap((g) => g.nodes ?? []).find((node) => node.subgraph === subgraph);
}

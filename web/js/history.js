// Undo takes back what the user did. The page notes any difference between two moments as a step, so what comes by itself
// (what a run tells a node, the size that a new node has once it is drawn) also goes into the state that it compares with.

const FRAMES = 60; // in which a new node gets its size; a busy machine draws them slower

const sameId = (id) => (one) => String(one?.id) === String(id); // numbers in some versions of the page, texts in others

// the node in the newest state of the open workflow, or undefined
function savedOf(app, node) {
  const state = app.extensionManager?.workflow?.activeWorkflow?.changeTracker?.activeState;
  const graph = node.graph === app.rootGraph ? state : state?.definitions?.subgraphs?.find(sameId(node.graph?.id));
  return graph?.nodes?.find(sameId(node.id));
}

// a property of a node as it is now: no step
export function noStep(app, node, name) {
  const saved = savedOf(app, node);
  if (saved) saved.properties = { ...saved.properties, [name]: JSON.parse(JSON.stringify(node.properties[name])) };
}

// The sizes that new nodes get when they are first drawn: no step. What the user does next is one.
export function growInOneStep(app, nodes) {
  let left = FRAMES;
  const take = () => {
    for (const node of nodes) {
      const saved = node.graph && savedOf(app, node);
      if (saved) saved.size = [node.size[0], node.size[1]];
    }
  };
  const stop = () => { take(); left = 0; };
  const frame = () => {
    if (left-- <= 0) return removeEventListener("pointerdown", stop, true);
    take();
    requestAnimationFrame(frame);
  };
  addEventListener("pointerdown", stop, { capture: true, once: true });
  requestAnimationFrame(frame);
}

// How wide a node must be so that its title, and the label and first value of each widget, are shown whole in both renderers.

const TITLE_FONT = "14px Inter, Arial, sans-serif", FONT = "12px Inter, Arial, sans-serif";
const TITLE_ROOM = 76, ROW_ROOM = 96, MOST = 400; // what stands beside a title and beside a label with its value; no wider than that
const TYPED = new Set(["text", "string", "customtext", "textarea"]); // as long as one likes

function ruler() {
  const context = document.createElement("canvas").getContext("2d");
  return (text, font) => {
    context.font = font;
    return context.measureText(text).width;
  };
}

// length(text, font): in pixels
export function needed(node, length) {
  const rows = (node.widgets ?? []).filter((w) => !w.element && !w.hidden).map((w) => {
    const label = length(w.label ?? w.name ?? "", FONT), value = TYPED.has(w.type) || w.type === "button" || w.value === undefined ? "" : String(w.value);
    return label + length(value, FONT) + ROW_ROOM;
  });
  return Math.min(MOST, Math.ceil(Math.max(length(node.title ?? "", TITLE_FONT) + TITLE_ROOM, ...rows)));
}

// A new node gets that width; one that is loaded gets its saved size after it.
let measure = null;
export function widen(node) {
  const wide = needed(node, (measure ??= ruler()));
  if (node.size && wide > node.size[0]) node.setSize([wide, node.size[1]]);
}

// Colours of the pack's wire types, in both renderers. A colour palette of the user's that names a type wins.

import { el } from "./dom.js";

export const COLORS = {
  NOISE_SCHEDULE: "#1aa08c",
  GUIDANCE: "#cc4fe0",
  GUIDANCE_REPORT: "#b9a27a",
  CLASSIFIER: "#c77fb1",
  MEASUREMENT: "#7f8fa6",
  SAMPLER_STATE: "#c8704a",
  SOLVER_FIT: "#d0644f",
  TRACE: "#8f8fd6",
  TRAJECTORIES: "#7fa650",
};

// Nodes 2.0 read a CSS variable, which a palette sets on the element and so over this rule
export function addColors() {
  const rules = Object.entries(COLORS).map(([type, color]) => `--color-datatype-${type}:${color};`);
  document.head.append(el("style", { id: "sampling-kit-colors" }, `:root{${rules.join("")}}`));
}

// the classic canvas reads two tables, which a change of palette empties
export function keepColors(canvas) {
  let changed = false;
  for (const table of [canvas?.default_connection_color_byType, canvas?.constructor?.link_type_colors])
    for (const [type, color] of Object.entries(table ? COLORS : {})) {
      if (table[type]) continue;
      table[type] = color;
      changed = true;
    }
  if (changed) canvas.setDirty(true, true);
}

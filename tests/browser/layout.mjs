// How well a graph is read: the curves of its links, how many cross, how many run behind a foreign node. And what a template repeats.

export const MOST_WIDE = 2000, MOST_HIGH = 1250;
export const BARS = { crossings: 10, behind: 0, wide: MOST_WIDE, high: MOST_HIGH };
export const TITLE = 30; // of a node, above its place
const POINTS = 12; // of a link's curve

// the curve that LiteGraph draws between two slots: [[x, y], …]
export function curve([x0, y0], [x1, y1], points = POINTS) {
  const pull = Math.hypot(x1 - x0, y1 - y0) / 4, made = [];
  for (let i = 0; i <= points; i++) {
    const t = i / points, s = 1 - t, a = s * s * s, b = 3 * s * s * t, c = 3 * s * t * t, d = t * t * t;
    made.push([a * x0 + b * (x0 + pull) + c * (x1 - pull) + d * x1, a * y0 + b * y0 + c * y1 + d * y1]);
  }
  return made;
}

const side = (a, b, p) => (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0]);
const meet = (a, b, c, d) => side(a, b, c) * side(a, b, d) < 0 && side(c, d, a) * side(c, d, b) < 0;

function cross(p, q) {
  for (let i = 1; i < p.length; i++) for (let j = 1; j < q.length; j++) if (meet(p[i - 1], p[i], q[j - 1], q[j])) return true;
  return false;
}

export const within = (box, [x, y], margin = 0) => x > box[0] - margin && x < box[0] + box[2] + margin && y > box[1] - margin && y < box[1] + box[3] + margin;

// paths made ready for `crossingsWith`: every third point, and the span
export const crossable = (paths) => paths.map((path) => {
  const thin = path.filter((_, i) => i % 3 === 0 || i === path.length - 1);
  let [left, top] = path[0], [right, bottom] = path[0];
  for (const [x, y] of path) {
    if (x < left) left = x; else if (x > right) right = x;
    if (y < top) top = y; else if (y > bottom) bottom = y;
  }
  return { thin, left, right, top, bottom };
});

const apart = (a, b) => a.right < b.left || b.right < a.left || a.bottom < b.top || b.bottom < a.top;

// how many of the others a path crosses
export function crossingsWith(path, others) {
  const [one] = crossable([path]);
  return others.filter((other) => !apart(one, other) && cross(one.thin, other.thin)).length;
}

// links: [{from, to, out, path}], boxes: {id: [x, y, w, h]}: how many pairs cross (those of one output do not count), and which links
// run behind a node that is not theirs
export function faults(links, boxes) {
  let crossings = 0;
  const spans = crossable(links.map(({ path }) => path));
  for (let i = 0; i < links.length; i++)
    for (let j = i + 1; j < links.length; j++) if (links[i].out !== links[j].out && !apart(spans[i], spans[j]) && cross(spans[i].thin, spans[j].thin)) crossings++;
  const behind = [];
  const all = Object.entries(boxes);
  links.forEach((link, i) => {
    const { left, right, top, bottom } = spans[i], from = String(link.from), to = String(link.to);
    for (const [id, box] of all) {
      if (id === from || id === to || box[0] > right || box[0] + box[2] < left || box[1] > bottom || box[1] + box[3] < top) continue;
      if (link.path.some((p) => within(box, p, -4))) behind.push([link, id]);
    }
  });
  return { crossings, behind };
}

const REPEATED = "SamplingKitGuider|SamplerCustomAdvanced|SamplingKitLatentToImage|VAEDecode";

// What crowded templates keep inside too: what all runs share and nobody is asked to change there.
const ALSO = {
  "fit-a-solver-to-your-checkpoint": "SamplingKitSample",
  inpainting: "SamplingKitDDIM|SamplingKitPerImageNoise|SamplingKitEmptyPixelLatent",
  "inspect-model": "SamplingKitDDIM|SamplingKitPerImageNoise|SamplingKitEmptyPixelLatent",
  "log-likelihood": "SamplingKitHeunEDM|SamplingKitPerImageNoise|SamplingKitEmptyPixelLatent",
  "measured-noise": "SamplingKitHeunEDM|DisableNoise",
  "one-network-four-schedules": "SamplingKitPerImageNoise|SamplingKitEmptyPixelLatent|SamplingKitClassCondition",
  "tutorial-4-ode": "SamplingKitPerImageNoise|SamplingKitEmptyPixelLatent|SamplingKitClassCondition|SamplingKitEmbeddedDenoiser",
  "wan22-text-to-video": "SamplingKitPerImageNoise|DisableNoise",
};
// and what stays outside, though there are others of its kind inside
const OUTSIDE = { "fit-a-solver-to-your-checkpoint": /^SamplingKitGuider$/, "log-likelihood": /^SamplingKitLatentToImage$/, "measured-noise": /^SamplingKitLatentToImage$/ };

// The nodes that a template repeats for every run it compares: those go into one subgraph. nodes: {id: type}, links as above.
// Empty where there is one run. What lies between two of them comes along, or the subgraph would lead to itself.
export function repeated(stem, types, links) {
  const of = (type) => Object.keys(types).filter((id) => type.test(types[id]) && !OUTSIDE[stem]?.test(types[id]));
  if (!ALSO[stem] && of(/^SamplerCustomAdvanced$/).length < 2) return [];
  const chosen = new Set(of(new RegExp(`^(${[REPEATED, ALSO[stem]].filter(Boolean).join("|")})$`))), next = (ids, a, b) => {
    const seen = new Set(), open = [...ids];
    while (open.length) {
      const at = open.pop();
      for (const l of links) if (String(l[a]) === at && !seen.has(String(l[b]))) { seen.add(String(l[b])); open.push(String(l[b])); }
    }
    return seen;
  };
  const after = next(chosen, 0, 2), before = next(chosen, 2, 0);
  return Object.keys(types).filter((id) => chosen.has(id) || (after.has(id) && before.has(id)));
}

// A plot as a picture on the canvas. Below the zoom at which the classic canvas draws no text, the page hides its own text boxes;
// our plots are hidden too, and their lines drawn like a node's, from outlines that are kept: thirty panels of the page cost half of the frame rate.

const USUAL = [300, 150], BAR = 22, NOTE = 18; // size of a plot that was never shown; what stands above and below it in a panel
const FAINT_DOT = 1, FAINT_LINE = 0.2; // pixels of the screen: what would be smaller is left out

// The size of an area in pixels; where it is hidden, the one that .hidden(size) has set, which says whether that is another.
export function sizeOf(area) {
  let last = USUAL;
  const size = () => {
    const now = [area.clientWidth, area.clientHeight];
    if (now[0] > 0 && now[1] > 0) last = now;
    return last;
  };
  size.hidden = (next) => {
    const other = next.some((n, i) => Math.abs(n - last[i]) > 1);
    if (other) last = next;
    return other;
  };
  return size;
}

// the colour that an attribute names, "var(--sk-0)" too
function colorOf(text, style) {
  const name = /^var\((--[\w-]+)\)$/.exec(text ?? "")?.[1];
  return name ? style.getPropertyValue(name).trim() : text;
}

const OUTLINES = {
  path: (to, at) => to.addPath(new Path2D(at("d"))),
  line: (to, at) => { to.moveTo(at("x1"), at("y1")); to.lineTo(at("x2"), at("y2")); },
  circle: (to, at) => { const [x, y, r] = ["cx", "cy", "r"].map((name) => Number(at(name))); to.moveTo(x + r, y); to.arc(x, y, r, 0, 2 * Math.PI); },
};

// what a drawing shows, marks of one look in one outline: [{outline, fill or stroke, wide, dash, alpha, seen}]
function outlined(drawing, panel) {
  const style = getComputedStyle(panel), made = new Map();
  for (const mark of drawing.children) {
    const add = OUTLINES[mark.tagName], at = (name) => mark.getAttribute(name), grid = mark.classList.contains("sk-grid"), round = mark.tagName === "circle";
    if (!add) continue;
    const look = {
      alpha: grid ? 0.45 : Number(at("opacity") ?? 1), wide: Number(at("stroke-width") ?? 1), dash: (at("stroke-dasharray") ?? "").split(" ").filter(Boolean).map(Number),
      seen: round ? Number(at("r")) : Number(at("stroke-width") ?? 1) * (grid ? 0.45 : 1), // its size, for small zooms
      ...(round ? { fill: colorOf(at("fill"), style) } : { stroke: grid ? style.getPropertyValue("--border-color") || "#888" : colorOf(at("stroke"), style) }),
    };
    const key = JSON.stringify(look);
    if (!made.has(key)) made.set(key, { ...look, outline: new Path2D() });
    add(made.get(key).outline, at);
  }
  return { back: style.getPropertyValue("--comfy-input-bg") || "#222", marks: [...made.values()] };
}

function show(context, { back, marks }, width, height) {
  context.fillStyle = back;
  context.fillRect(0, 0, width, height);
  const zoom = context.getTransform().a;
  for (const { outline, fill, stroke, wide, dash, alpha, seen } of marks) {
    if (seen * zoom < (fill ? FAINT_DOT : FAINT_LINE)) continue;
    context.globalAlpha = alpha;
    if (fill) {
      context.fillStyle = fill;
      context.fill(outline);
    } else {
      context.strokeStyle = stroke;
      context.lineWidth = wide;
      context.setLineDash(dash);
      context.stroke(outline);
    }
  }
}

// plot: {drawing, size(), version(), draw()}, panel: the element whose colours it has. Returns show(context, x, y, width, height): the box of
// the panel on the canvas. Its outlines are made anew where the plot, or the theme, has changed.
export function pictureOf(plot, panel) {
  let outlines = null, of = "";
  return (context, x, y, width, height) => {
    const box = [width, Math.max(1, height - BAR - NOTE)].map(Math.round);
    if (plot.size.hidden(box)) plot.draw();
    const now = `${plot.version()} ${document.body.className}`;
    if (now !== of) [outlines, of] = [outlined(plot.drawing, panel), now];
    context.save();
    context.translate(x, y + BAR);
    show(context, outlines, ...box);
    context.restore();
  };
}

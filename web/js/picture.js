// A plot as a picture on the canvas. Below the zoom at which the classic canvas draws no text, the page hides its own text boxes;
// our plots are hidden too, and their lines drawn like a node's: thirty panels of the page cost half of the frame rate.

const USUAL = [300, 150], BAR = 22, NOTE = 18; // size of a plot that was never shown; what stands above and below it in a panel
const DETAIL = 0.6; // pixels of the picture for one of the canvas: it is shown at no larger zoom

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

const MARKS = {
  path: (draw, at) => { draw.stroke(new Path2D(at("d"))); },
  line: (draw, at) => { draw.beginPath(); draw.moveTo(at("x1"), at("y1")); draw.lineTo(at("x2"), at("y2")); draw.stroke(); },
  circle: (draw, at, fill) => { draw.beginPath(); draw.arc(at("cx"), at("cy"), at("r"), 0, 2 * Math.PI); draw.fillStyle = fill; draw.fill(); },
};

function drawn(drawing, [width, height], panel) {
  const sharp = DETAIL * (globalThis.devicePixelRatio || 1), picture = document.createElement("canvas"), style = getComputedStyle(panel);
  picture.width = Math.max(1, Math.round(width * sharp));
  picture.height = Math.max(1, Math.round(height * sharp));
  const draw = picture.getContext("2d");
  draw.scale(sharp, sharp);
  draw.fillStyle = style.getPropertyValue("--comfy-input-bg") || "#222";
  draw.fillRect(0, 0, width, height);
  for (const mark of drawing.children) {
    const at = (name) => mark.getAttribute(name), grid = mark.classList.contains("sk-grid");
    draw.globalAlpha = grid ? 0.45 : Number(at("opacity") ?? 1);
    draw.strokeStyle = grid ? style.getPropertyValue("--border-color") || "#888" : colorOf(at("stroke"), style);
    draw.lineWidth = Number(at("stroke-width") ?? 1);
    draw.setLineDash((at("stroke-dasharray") ?? "").split(" ").filter(Boolean).map(Number));
    MARKS[mark.tagName]?.(draw, at, colorOf(at("fill"), style));
  }
  return picture;
}

// plot: {drawing, size(), version(), draw()}, panel: the element whose colours it has. Returns show(context, x, y, width, height): the box of
// the panel on the canvas. The picture is made anew where the plot, or the theme, has changed.
export function pictureOf(plot, panel) {
  let picture = null, of = "";
  return (context, x, y, width, height) => {
    const box = [width, Math.max(1, height - BAR - NOTE)].map(Math.round);
    if (plot.size.hidden(box)) plot.draw();
    const now = `${plot.version()} ${document.body.className}`;
    if (now !== of) [picture, of] = [drawn(plot.drawing, plot.size(), panel), now];
    context.drawImage(picture, x, y + BAR, ...box);
  };
}

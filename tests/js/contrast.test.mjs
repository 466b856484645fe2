// Lines at least 3:1 and text at least 4.5:1 in ComfyUI's dark, light and solarized themes, by WCAG's contrast.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import { COLORS } from "../../web/js/colors.js";
import { shade } from "../../web/js/table.js";

const LINE = 3, TEXT = 4.5;
// what the themes say, in ComfyUI's frontend 1.49.6
const THEMES = {
  dark: { input: "#222222", text: "#dddddd", dim: "#999999", error: "#ff4444", menu: "#171718" },
  light: { input: "#c9c9c9", text: "#222222", dim: "#444444", error: "#f44336", menu: "#ffffff" },
  solarized: { input: "#002b36", text: "#93a1a1", dim: "#586e75", error: "#dc322f", menu: "#073642" },
};

const parts = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
const luminance = (hex) => parts(hex).map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)).reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const contrast = (a, b) => { const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y); return (high + 0.05) / (low + 0.05); };
const apart = (a, b) => Math.hypot(...parts(a).map((c, i) => c - parts(b)[i]));
const mixed = (a, share, b) => `#${parts(a).map((c, i) => Math.round(c * share + parts(b)[i] * (1 - share)).toString(16).padStart(2, "0")).join("")}`;

const style = readFileSync(new URL("../../web/js/dom.js", import.meta.url), "utf8");
const long = (hex) => (hex.length === 4 ? `#${[...hex.slice(1)].map((c) => c + c).join("")}` : hex);
const lines = (rule) => [...rule.exec(style)[1].matchAll(/--sk-\d:(#[0-9a-f]{3,6})/g)].map(([, hex]) => long(hex));
const palette = { light: lines(/^\.sk \{(.*?)\n/m), dark: lines(/^\.dark-theme \.sk \{(.*)/m) };
const paletteOf = (theme) => palette[theme === "light" ? "light" : "dark"];
const share = (rule) => Number(rule.exec(style)[1]) / 100;
const DIM = share(/--sk-dim: color-mix\(in srgb, var\(--descrip-text, #\w+\) (\d+)%/), ERROR = share(/color-mix\(in srgb, var\(--error-text, #\w+\) (\d+)%, var\(--sk-7\)\)/);
const seen = (color, back, least, what) => assert.ok(contrast(color, back) >= least, `${what}: ${color} on ${back} is ${contrast(color, back).toFixed(2)}`);

test("GUIDANCE and NOISE_SCHEDULE look like no type beside them, and are seen on dark and on light nodes", () => {
  const core = { CONDITIONING: "#FFA931", IMAGE: "#64B5F6", MODEL: "#B39DDB", LATENT: "#FF9CF9", VAE: "#FF6E6E", CLIP: "#FFD500" };
  for (const type of ["GUIDANCE", "NOISE_SCHEDULE"]) {
    for (const [other, color] of Object.entries(core)) assert.ok(apart(COLORS[type], color) > 75, `${type} and ${other}`);
    for (const back of ["#353535", "#ffffff"]) seen(COLORS[type], back, LINE, type);
  }
});

test("lines of plots are seen in every theme", () => {
  assert.deepEqual([palette.light.length, palette.dark.length], [8, 8]);
  for (const [theme, { input }] of Object.entries(THEMES)) for (const color of paletteOf(theme)) seen(color, input, LINE, theme);
});

test("texts of panels are read in every theme: values, notes, messages, tips, pressed buttons, shaded cells", () => {
  assert.match(/^\.sk \{[^}]*\}/m.exec(style)[0], /background:var\(--sk-back\)/); // or a node's own colour lies behind them
  for (const [theme, { input, text, dim, error, menu }] of Object.entries(THEMES)) {
    const [first, second] = paletteOf(theme), strong = paletteOf(theme)[7], note = mixed(dim, DIM, text);
    seen(text, input, TEXT, `${theme}, text`);
    seen(note, input, TEXT, `${theme}, note`);
    seen(mixed(error, ERROR, strong), input, TEXT, `${theme}, message`);
    seen(text, menu, TEXT, `${theme}, tip`);
    seen(theme === "light" ? "#ffffff" : "#111111", first, TEXT, `${theme}, pressed`);
    for (const color of [first, second]) seen(strong, mixed(color, shade(1, 1) / 100, input), TEXT, `${theme}, strongest cell`);
  }
});

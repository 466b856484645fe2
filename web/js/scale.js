// Axes: where a value lies, and which values get a tick. Numbers only.

// {at(value) in [0, 1], ticks: [value, …]} for values between low and high; null where there is nothing to show
export function scale(values, log = false, count = 4) {
  const there = values.filter((v) => v !== null && Number.isFinite(v) && (!log || v > 0));
  if (!there.length) return null;
  let low = there.reduce((a, b) => Math.min(a, b)), high = there.reduce((a, b) => Math.max(a, b));
  const map = log ? Math.log10 : (v) => v;
  if (low === high) [low, high] = log ? [low / 2, high * 2] : [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2];
  [low, high] = [Math.max(low, log ? Number.MIN_VALUE : -Number.MAX_VALUE), Math.min(high, Number.MAX_VALUE)];
  const half = (value) => map(value) / 2; // the whole way between the ends may be more than a number holds
  const wide = half(high) - half(low), at = (value) => (wide > 0 ? (half(value) - half(low)) / wide : 0.5);
  return { low, high, at, ticks: (log ? decades(low, high, count) : rounds(low, high, count)).filter(Number.isFinite) };
}

const MOST = 100; // ticks, whatever the numbers: from 2^53 on i + 1 may be i

// multiples of 1, 2 or 5 times a power of ten, about `count` of them
export function rounds(low, high, count) {
  const raw = high / count - low / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * ([1, 2, 5, 10].find((m) => m * power >= raw * 0.7) ?? 10);
  const first = Math.ceil(low / step - 1e-9), ticks = new Set();
  for (let i = 0; i < MOST && (first + i) * step <= high + step * 1e-9; i++) ticks.add(Number(((first + i) * step).toPrecision(12)));
  return [...ticks].filter((t) => t >= low - step * 1e-9 && t <= high + step * 1e-9);
}

// powers of ten, thinned; where there are too few of them, 1-2-5 steps
export function decades(low, high, count) {
  const first = Math.ceil(Math.log10(low) - 1e-9), last = Math.floor(Math.log10(high) + 1e-9);
  if (last - first < 1) {
    const fine = [];
    for (let e = first - 1; e <= last + 1; e++) for (const m of [1, 2, 5]) if (m * 10 ** e >= low * 0.999 && m * 10 ** e <= high * 1.001) fine.push(m * 10 ** e);
    return fine.length ? fine : [low, high];
  }
  const every = Math.ceil((last - first + 1) / (count + 1)), ticks = [];
  for (let e = first; e <= last && ticks.length < MOST; e += every) ticks.push(Number(`1e${e}`));
  return ticks;
}

// index of the entry of `positions` (rising) that is nearest to `at`
export function nearest(positions, at) {
  let best = 0;
  positions.forEach((p, i) => { if (Math.abs(p - at) < Math.abs(positions[best] - at)) best = i; });
  return best;
}

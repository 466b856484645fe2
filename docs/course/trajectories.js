// A plane to play with: drag the start, and see where the ODE leads from there, finely, in a few Euler steps, and with noise.
// Fills every <div class="sk-plane"> of a page. Data: three places of deviation 0.2, as on the course's pages.
(() => {
  const PLACES = [[-2, 0], [1, 1.7], [1, -1.7]], WIDTH = 0.2, FIRST = 20, LAST = 0.02, REACH = 3.2;

  // E[x0 | y] of the mixture at the level kappa
  function denoise([a, b], kappa) {
    const blurred = WIDTH ** 2 + kappa ** 2;
    const logs = PLACES.map(([p, q]) => -((a - p) ** 2 + (b - q) ** 2) / (2 * blurred)), top = Math.max(...logs);
    const shares = logs.map((l) => Math.exp(l - top)), sum = shares.reduce((x, y) => x + y, 0);
    const gain = WIDTH ** 2 / blurred, mean = [0, 0];
    PLACES.forEach(([p, q], k) => {
      mean[0] += (shares[k] / sum) * (p + gain * (a - p));
      mean[1] += (shares[k] / sum) * (q + gain * (b - q));
    });
    return mean;
  }

  // even in log kappa, and the end
  const levels = (steps) => [...Array.from({ length: steps }, (_, i) => FIRST * (LAST / FIRST) ** (i / Math.max(1, steps - 1))), 0];

  // DDIM's step with fresh noise eta, which is Euler's at eta 0; noise() gives standard normal numbers
  function run(start, steps, eta = 0, noise = () => 0) {
    const ladder = levels(steps), way = [start];
    let y = start;
    for (let i = 0; i + 1 < ladder.length; i++) {
      const k = ladder[i], next = ladder[i + 1], d = denoise(y, k);
      const fresh = eta * next * Math.sqrt(Math.max(0, 1 - (next / k) ** 2)), keep = Math.sqrt(next ** 2 - fresh ** 2) / k;
      y = y.map((v, j) => d[j] + keep * (v - d[j]) + fresh * noise());
      way.push(y);
    }
    return way;
  }

  // in units of the state's size, so that the start is on the canvas too
  const seen = (way, steps) => way.map((y, i) => y.map((v) => v * Math.sqrt((1.6 ** 2) / (1.6 ** 2 + levels(steps)[i] ** 2))));

  function normal() {
    return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
  }

  function plane(host) {
    const zh = document.documentElement.lang.startsWith("zh") || location.pathname.includes("/zh/");
    const canvas = document.createElement("canvas"), slider = document.createElement("input"), words = document.createElement("p");
    canvas.width = canvas.height = 460;
    canvas.style.cssText = "max-width:100%;border:1px solid #8888;touch-action:none;cursor:grab";
    Object.assign(slider, { type: "range", min: 1, max: 30, value: 5 });
    slider.setAttribute("aria-label", zh ? "欧拉步数" : "Euler steps");
    host.append(canvas, slider, words);
    const scale = canvas.width / (2 * REACH), to = ([a, b]) => [(a + REACH) * scale, (REACH - b) * scale];
    let start = [14, 12];

    function line(context, way, colour, width, dots) {
      context.strokeStyle = context.fillStyle = colour;
      context.lineWidth = width;
      context.beginPath();
      way.forEach((p, i) => context[i ? "lineTo" : "moveTo"](...to(p)));
      context.stroke();
      for (const p of dots ? way : [way.at(-1)]) {
        context.beginPath();
        context.arc(...to(p), 4, 0, 7);
        context.fill();
      }
    }
    function draw() {
      const context = canvas.getContext("2d"), steps = Number(slider.value), fine = 200;
      context.clearRect(0, 0, canvas.width, canvas.height);
      for (const p of PLACES) {
        context.fillStyle = "#8885";
        context.beginPath();
        context.arc(...to(p), 2 * WIDTH * scale, 0, 7);
        context.fill();
      }
      line(context, seen(run(start, fine, 0.4, normal), fine), "#2a9d5c88", 1, false);
      line(context, seen(run(start, fine), fine), "#888", 2, false);
      line(context, seen(run(start, steps), steps), "#d9534f", 2, true);
      const off = Math.hypot(...[0, 1].map((j) => run(start, steps).at(-1)[j] - run(start, fine).at(-1)[j])).toFixed(2);
      words.textContent = zh ? `红：${steps} 个欧拉步，离 ODE（灰）的终点 ${off}；绿：带新噪声。拖动起点。` : `Red: ${steps} Euler steps, ${off} from the end of the ODE (grey). Green: with fresh noise. Drag the start.`;
    }
    function move(event) {
      if (!(event.buttons & 1)) return;
      const box = canvas.getBoundingClientRect(), unit = Math.sqrt(1.6 ** 2 + FIRST ** 2) / 1.6;
      start = [((event.clientX - box.left) / box.width) * 2 * REACH - REACH, REACH - ((event.clientY - box.top) / box.height) * 2 * REACH].map((v) => v * unit);
      draw();
    }
    canvas.addEventListener("pointerdown", move);
    canvas.addEventListener("pointermove", move);
    slider.addEventListener("input", draw);
    draw();
  }

  globalThis.skPlane = { denoise, levels, run };
  if (globalThis.document) document.addEventListener("DOMContentLoaded", () => document.querySelectorAll(".sk-plane").forEach(plane));
})();

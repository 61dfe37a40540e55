// Small charts of a run's figures, drawn by uPlot and fed by the metrics API once a second while the run goes on.
//   <figure data-chart data-run data-url data-names="a,b" data-labels="x|y" data-unit data-ended data-steps>
// One poll a run serves all its charts. Lines carry their label at their end; colours come from the theme.

const POLL = 1000;
const HEIGHT = 144;
const LABEL_SPACE = 62;
const language = document.documentElement.lang || "en";

const runs = new Map(); // id -> { url, after, steps, values: {name: []}, ended, polling }
const drawn = new Map(); // figure -> uPlot

function format(value, unit) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (unit === "percent") return `${(100 * value).toFixed(1)}%`;
  const size = Math.abs(value);
  const digits = size >= 1000 ? 0 : size >= 100 ? 0 : size >= 10 ? 1 : 2;
  const text = value.toLocaleString(language, { minimumFractionDigits: digits, maximumFractionDigits: digits });
  return unit === "per second" ? `${text} / s` : unit ? `${text} ${unit}` : text;
}

function formatTick(value, unit) {
  if (unit === "percent") return `${+(100 * value).toFixed(1)}%`;
  return value.toLocaleString(language, { maximumFractionDigits: 3 });
}

// The colour that a CSS variable has now, resolved (a canvas knows no light-dark()).
function colour(name) {
  const probe = document.createElement("span");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

function facts(figure) {
  return {
    names: figure.dataset.names.split(","),
    labels: figure.dataset.labels.split("|"),
    unit: figure.dataset.unit,
    canvas: figure.querySelector("[data-canvas]"),
    now: figure.querySelector("[data-now]"),
    steps: Number(figure.dataset.steps) || 0,
  };
}

// x and one line a metric that has any number at all; null where a step has none.
function dataOf(run, names) {
  const lines = names.map((name) => run.values[name] ?? []).map((line) => run.steps.map((_, index) => line[index] ?? null));
  const shown = lines.map((line) => line.some((value) => value !== null));
  return { x: [...run.steps], lines, shown };
}

function last(line) {
  for (let index = line.length - 1; index >= 0; index--) if (line[index] !== null) return { index, value: line[index] };
  return null;
}

function endLabels(labels) {
  return {
    hooks: {
      draw: (chart) => {
        const { ctx } = chart;
        const ratio = devicePixelRatio || 1;
        const ends = [];
        for (let series = 1; series < chart.series.length; series++) {
          const end = last(chart.data[series]);
          if (!end) continue;
          ends.push({
            x: chart.valToPos(chart.data[0][end.index], "x", true),
            y: chart.valToPos(end.value, "y", true),
            text: labels[series - 1],
            stroke: chart.series[series].stroke(),
          });
        }
        ctx.save();
        ctx.font = `${11.5 * ratio}px ${getComputedStyle(document.body).fontFamily}`;
        ctx.textBaseline = "middle";
        ctx.textAlign = "left";
        for (const end of ends) {
          ctx.fillStyle = end.stroke;
          ctx.beginPath();
          ctx.arc(end.x, end.y, 2.5 * ratio, 0, 2 * Math.PI);
          ctx.fill();
        }
        if (ends.length > 1) {
          // All after the line that goes farthest, or one would stand on another's line; those that would touch, apart.
          const after = Math.max(...ends.map((end) => end.x)) + 6 * ratio;
          ends.sort((a, b) => a.y - b.y);
          const gap = 13 * ratio;
          for (let index = 1; index < ends.length; index++) {
            ends[index].textY = Math.max(ends[index].y, (ends[index - 1].textY ?? ends[index - 1].y) + gap);
          }
          for (const end of ends) {
            ctx.fillStyle = end.stroke;
            ctx.fillText(end.text, after, end.textY ?? end.y);
          }
        }
        ctx.restore();
      },
    },
  };
}

function makeChart(figure, data) {
  const { canvas, labels, unit, now, steps } = facts(figure);
  const strokes = data.lines.map((_, index) => colour(`--chart-${index + 1}`));
  const quiet = colour("--ink-quiet");
  const grid = colour("--chart-grid");
  const several = data.shown.filter(Boolean).length > 1;
  const axis = { stroke: quiet, font: `11px ${getComputedStyle(document.body).fontFamily}`, ticks: { show: false } };
  const options = {
    width: canvas.clientWidth,
    height: HEIGHT,
    padding: [8, several ? LABEL_SPACE : 10, 0, 0],
    legend: { show: false },
    cursor: { y: false, points: { size: 6 }, drag: { x: false, y: false }, sync: { key: figure.dataset.run } },
    scales: {
      x: { time: false, range: (_, low, high) => [Math.min(low, 0), Math.max(high, steps, 1)] },
      y: { range: (_, low, high) => rangeOf(low, high, unit) },
    },
    axes: [
      { ...axis, size: 24, grid: { show: false }, space: 60, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000] },
      { ...axis, size: 46, grid: { stroke: grid, width: 1 }, space: 34, values: (_, ticks) => ticks.map((tick) => formatTick(tick, unit)) },
    ],
    series: [
      {},
      ...data.lines.map((_, index) => ({
        label: labels[index],
        stroke: strokes[index],
        width: 1.75,
        spanGaps: true,
        show: data.shown[index],
        points: { show: data.x.length < 3, size: 5 },
      })),
    ],
    plugins: [endLabels(labels)],
    hooks: {
      setCursor: [
        (chart) => {
          const index = chart.cursor.idx;
          const main = data.shown.indexOf(true);
          if (index === null || index === undefined) showNow(figure, chart.data);
          else now.textContent = `${chart.data[0][index]}: ${format(chart.data[main + 1][index], unit)}`;
        },
      ],
    },
  };
  canvas.replaceChildren();
  return new uPlot(options, [data.x, ...data.lines], canvas);
}

// A little air around the line; a flat one is drawn in the middle, not along an edge.
function rangeOf(low, high, unit) {
  if (low === null || high === null) return [0, 1];
  const air = Math.max((high - low) * 0.12, Math.abs(high) * 0.02, 1e-3);
  const floor = low >= 0 ? Math.max(0, low - air) : low - air;
  return [floor, unit === "percent" ? Math.min(1, high + air) : high + air];
}

function showNow(figure, data) {
  const { now, unit, canvas, labels } = facts(figure);
  const lines = data.slice(1);
  const ends = lines.map(last);
  const main = ends.findIndex(Boolean);
  if (main < 0) return;
  now.textContent = format(ends[main].value, unit);
  const name = figure.querySelector(".chart__name").textContent;
  const told = ends.map((end, index) => (end ? `${labels[index]} ${format(end.value, unit)}` : "")).filter(Boolean);
  canvas.setAttribute("aria-label", `${name}, ${data[0].length}: ${told.join(", ")}`);
}

function draw(figure) {
  const run = runs.get(figure.dataset.run);
  if (!run || !run.steps.length) return;
  const data = dataOf(run, facts(figure).names);
  if (!data.shown.includes(true)) return;
  const known = drawn.get(figure);
  const same = known && data.shown.every((shown, index) => shown === known.series[index + 1].show);
  if (same && known.data[0].length >= 3) known.setData([data.x, ...data.lines]);
  else {
    known?.destroy();
    drawn.set(figure, makeChart(figure, data));
  }
  figure.dataset.points = data.x.length;
  showNow(figure, [data.x, ...data.lines]);
}

function store(run, rows) {
  for (const row of rows) {
    // A step that is done again after a resume takes its old place.
    while (run.steps.length && run.steps.at(-1) >= row.step) {
      run.steps.pop();
      for (const line of Object.values(run.values)) line.length = Math.min(line.length, run.steps.length);
    }
    const index = run.steps.push(row.step) - 1;
    for (const [name, value] of Object.entries(row.values)) (run.values[name] ??= [])[index] = value;
    run.after = row.step;
  }
}

async function poll(id) {
  const run = runs.get(id);
  for (;;) {
    let more = 0;
    const wasEnded = run.ended;
    try {
      const answer = await fetch(`${run.url}?after=${run.after}`, {
        headers: { Accept: "application/json" },
        credentials: "same-origin",
      });
      if (answer.ok) {
        const rows = rowsOf(await answer.json());
        more = rows.length;
        store(run, rows);
        if (more) for (const figure of figuresOf(id)) draw(figure);
      } else if (answer.status === 403 || answer.status === 404) return;
    } catch {
      // The server is away for a moment; the next turn tries again.
    }
    if (wasEnded && !more) break;
    if (!figuresOf(id).length) break;
    await new Promise((done) => setTimeout(done, wasEnded ? 0 : POLL));
    while (document.hidden) await new Promise((done) => setTimeout(done, POLL));
  }
  run.polling = false;
}

function rowsOf(body) {
  return Array.isArray(body) ? body : (body.metrics ?? body.results ?? []);
}

function figuresOf(id) {
  return [...document.querySelectorAll("[data-chart]")].filter((figure) => figure.dataset.run === id);
}

const resized = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const chart = drawn.get(target.closest("[data-chart]"));
    if (chart && target.clientWidth && chart.width !== target.clientWidth) {
      chart.setSize({ width: target.clientWidth, height: HEIGHT });
    }
  }
});

// Takes up every chart on the page; safe to call again after parts of the page were replaced.
export function drawCharts() {
  for (const [figure, chart] of drawn) {
    if (figure.isConnected) continue;
    chart.destroy();
    drawn.delete(figure);
  }
  for (const figure of document.querySelectorAll("[data-chart]")) {
    const id = figure.dataset.run;
    if (!runs.has(id)) runs.set(id, { url: figure.dataset.url, after: -1, steps: [], values: {}, ended: false });
    const run = runs.get(id);
    run.ended = figure.dataset.ended === "yes";
    resized.observe(figure.querySelector("[data-canvas]"));
    if (!drawn.has(figure)) draw(figure);
    if (!run.polling) {
      run.polling = true;
      poll(id);
    }
  }
}

function redraw() {
  // A copy: each figure is taken out and put in again.
  for (const [figure, chart] of [...drawn]) {
    chart.destroy();
    drawn.delete(figure);
    draw(figure);
  }
}

document.addEventListener("plumbline:theme", redraw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

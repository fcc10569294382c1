// Figures: drawn by plotly when they come into view, in the page's colours.
"use strict";

const NARROW = matchMedia("(max-width: 45rem)");
const COARSE = matchMedia("(pointer: coarse)");
const DARK = matchMedia("(prefers-color-scheme: dark)");
const parsed = new Map();
let leftRuns = null; // places of the runs that pass the overview's filters, null for all

// Lists that stand several times are in the page once (packed.py).
function unpacked(value, lists) {
  if (Array.isArray(value)) return value.map((item) => unpacked(item, lists));
  if (value === null || typeof value !== "object") return value;
  if ("$" in value) return value.back ? [...lists[value.$], ...lists[value.$].slice().reverse()] : lists[value.$];
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, unpacked(item, lists)]));
}

// What the page holds of a run, or of all of them ("all").
function dataOf(run) {
  if (!parsed.has(run)) {
    const { lists, ...held } = JSON.parse(document.getElementById(`data-${run}`).textContent);
    parsed.set(run, unpacked(held, lists));
  }
  return parsed.get(run);
}

function figureOf(plot) {
  const { run, figure: number } = plot.closest(".figure").dataset;
  return { run, ...dataOf(run).figures[Number(number)] };
}

function colours(printed) {
  if (printed) return { paper: "#ffffff", raised: "#f5f6f7", ink: "#1a1e23", muted: "#566069", line: "#9aa3ab", grid: "#e4e7ea" };
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(`--${name}`).trim();
  return { paper: of("paper"), raised: of("raised"), ink: of("ink"), muted: of("muted"), line: of("line"), grid: of("grid") };
}

// The figure's own layout with paper, text and grid in the page's colours; what it says goes first.
function themed(layout, look, paper) {
  const made = structuredClone(layout);
  made.paper_bgcolor = paper;
  made.plot_bgcolor = "rgba(0,0,0,0)";
  made.font = { family: getComputedStyle(document.body).fontFamily, size: 12, ...made.font, color: look.ink };
  made.hoverlabel = { ...made.hoverlabel, bgcolor: look.raised, bordercolor: look.line, font: { ...made.hoverlabel?.font, color: look.ink } };
  made.modebar = { bgcolor: "rgba(0,0,0,0)", color: look.muted, activecolor: look.ink, ...made.modebar };
  made.legend = { bgcolor: "rgba(0,0,0,0)", ...made.legend };
  if (!Object.keys(made).some((name) => /^[xy]axis/.test(name))) return made;
  for (const name of new Set(["xaxis", "yaxis", ...Object.keys(made)])) {
    if (!/^[xy]axis\d*$/.test(name)) continue;
    const given = made[name] ?? {};
    made[name] = { gridcolor: look.grid, zerolinecolor: look.line, linecolor: look.line, tickcolor: look.line, ...given };
    if (given.minor) made[name].minor = { tickcolor: look.line, ...given.minor };
  }
  return made;
}

// What no other point beats in both values, as the step line that `meta.runs: "front"` draws.
function frontLine(points) {
  const order = [...points].sort((a, b) => a.x - b.x || a.y - b.y);
  const best = [];
  for (const one of order) {
    const last = best[best.length - 1];
    if (!last || one.y < last.y || (one.x === last.x && one.y === last.y)) best.push(one);
  }
  return best;
}

// A figure narrowed to the runs that are left: `customdata[i][0]` is a run's place in the overview.
function narrowed(one) {
  if (leftRuns === null || one.run !== "all") return one;
  const kept = [];
  let data = one.data.map((trace) => {
    if (trace.meta?.runs !== "points") return trace;
    const keep = trace.customdata.map((item) => leftRuns.has(item[0]));
    const pick = (value) => Array.isArray(value) && value.length === keep.length ? value.filter((_, place) => keep[place]) : value;
    const made = { ...trace, marker: { ...trace.marker, symbol: pick(trace.marker.symbol) } };
    for (const key of ["x", "y", "customdata", "hovertext"]) made[key] = pick(trace[key]);
    if (trace.error_y) made.error_y = { ...trace.error_y, array: pick(trace.error_y.array) };
    made.x.forEach((x, place) => kept.push({ x, y: made.y[place], symbol: made.marker.symbol[place] }));
    made.showlegend = made.x.length > 0;
    return made;
  });
  const right = Math.max(...kept.map((point) => point.x));
  const top = Math.max(...kept.map((point) => point.y));
  data = data.map((trace) => {
    if (trace.meta?.runs !== "front") return trace;
    const simulated = trace.line.dash === "dot";
    const best = frontLine(kept.filter(({ symbol }) => symbol !== "x-thin" && symbol.endsWith("-open") === simulated));
    if (!best.length) return { ...trace, x: [], y: [], showlegend: false };
    const line = [{ x: best[0].x, y: top }, ...best, { x: right, y: best[best.length - 1].y }];
    return { ...trace, x: line.map((point) => point.x), y: line.map((point) => point.y) };
  });
  // Names stand at points that may be gone; marks are placed on the paper and stay.
  const annotations = (one.layout.annotations ?? []).filter((note) => note.xref === "paper");
  return { ...one, data, layout: { ...one.layout, annotations } };
}

// A phone has room for some fifteen characters beside the bars.
function shortened(text, most = 15) {
  const named = { amp: "&", lt: "<", gt: ">", quot: '"' };
  const plain = String(text).replace(/&(?:(amp|lt|gt|quot)|#(\d+)|#x([0-9a-f]+));/gi, (_, name, decimal, hex) =>
    name ? named[name.toLowerCase()] : String.fromCodePoint(decimal ? Number(decimal) : parseInt(hex, 16)));
  const signs = [...plain];
  if (signs.length <= most) return text;
  const tail = Math.floor((most - 1) / 2);
  const cut = `${signs.slice(0, most - 1 - tail).join("")}~${signs.slice(-tail).join("")}`;
  return cut.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

function heightOf(plot) {
  const wanted = Number(plot.dataset.height);
  return NARROW.matches ? Math.max(300, Math.min(wanted, 560)) : wanted;
}

function fileName(one) {
  return one.run === "all" ? `edgejoule-${one.key}` : `edgejoule-run${Number(one.run) + 1}-${one.key}`;
}

// Saved pictures are for paper: white behind, dark text, whatever the page looks like.
function save(plot, format) {
  const one = narrowed(figureOf(plot));
  const layout = { ...themed(one.layout, colours(true), "#ffffff"), width: 1000, height: Number(plot.dataset.height) };
  return Plotly.downloadImage({ data: one.data, layout }, { format, width: layout.width, height: layout.height, scale: format === "png" ? 2 : 1, filename: fileName(one) });
}

function draw(plot, printed = false) {
  const one = narrowed(figureOf(plot));
  const layout = themed(one.layout, colours(printed), "rgba(0,0,0,0)");
  layout.height = heightOf(plot);
  layout.autosize = true;
  if (NARROW.matches && layout.yaxis?.ticktext) {
    layout.yaxis.ticktext = layout.yaxis.ticktext.map((text) => shortened(text));
  }
  if (COARSE.matches) layout.dragmode = false; // a finger scrolls the page
  const config = {
    responsive: true,
    displaylogo: false,
    displayModeBar: COARSE.matches ? false : "hover",
    modeBarButtonsToRemove: ["toImage", "select2d", "lasso2d", "autoScale2d"],
    modeBarButtonsToAdd: [
      { name: "svg", title: "Save as SVG", icon: Plotly.Icons.disk, click: () => save(plot, "svg") },
      { name: "png", title: "Save as PNG", icon: Plotly.Icons.camera, click: () => save(plot, "png") },
    ],
  };
  const drawn = Plotly.react(plot, structuredClone(one.data), layout, config);
  plot.classList.add("drawn");
  return drawn;
}

const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting || entry.target.classList.contains("drawn")) continue;
    draw(entry.target);
  }
}, { rootMargin: "400px 0px" });

function plots(root) {
  return [...root.querySelectorAll(".plot")];
}

function reserve() {
  for (const plot of plots(document)) plot.style.minHeight = `${heightOf(plot)}px`;
}

function setUpFigures() {
  reserve();
  plots(document).forEach((plot) => watcher.observe(plot));
  NARROW.addEventListener("change", () => { reserve(); redraw(); });
  addEventListener("beforeprint", () => {
    const shown = document.querySelector(".view.shown");
    if (shown) plots(shown).forEach((plot) => draw(plot, true));
  });
  addEventListener("afterprint", redraw);
}

function redraw() {
  for (const plot of plots(document)) if (plot.classList.contains("drawn")) draw(plot);
}

// A view that is left gives its figures back: a page of twenty runs would hold hundreds.
function forget(view) {
  for (const plot of plots(view)) {
    if (!plot.classList.contains("drawn")) continue;
    Plotly.purge(plot);
    plot.classList.remove("drawn");
    watcher.unobserve(plot);
    watcher.observe(plot);
  }
}

function narrowFigures(left) {
  leftRuns = left;
  for (const plot of plots(document.getElementById("overview"))) if (plot.classList.contains("drawn")) draw(plot);
}

// Figures: drawn by plotly when they come into view, in the page's colours.
"use strict";

const NARROW = matchMedia("(max-width: 45rem)");
const COARSE = matchMedia("(pointer: coarse)");
const DARK = matchMedia("(prefers-color-scheme: dark)");
const parsed = new Map();
let leftRuns = null; // names of the runs that pass the overview's filters, null for all

// What the page holds of a run, or of all of them ("all").
function dataOf(run) {
  if (!parsed.has(run)) parsed.set(run, JSON.parse(document.getElementById(`data-${run}`).textContent));
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
    made[name] = { gridcolor: look.grid, zerolinecolor: look.line, linecolor: look.line, tickcolor: look.line, ...given, minor: { ...given.minor, gridcolor: look.grid, tickcolor: look.line } };
  }
  return made;
}

// Traces narrowed to the runs that are left. `customdata` names the run of each point.
function narrowed(data) {
  if (leftRuns === null) return data;
  return data.map((trace) => {
    const names = trace.customdata;
    if (!Array.isArray(names)) return trace;
    const keep = names.map((item) => leftRuns.has(Array.isArray(item) ? item[0] : item));
    const pick = (value) => Array.isArray(value) && value.length === names.length ? value.filter((_, place) => keep[place]) : value;
    const made = { ...trace };
    for (const key of ["x", "y", "text", "customdata", "hovertext"]) if (key in trace) made[key] = pick(trace[key]);
    for (const key of ["error_x", "error_y"]) {
      if (trace[key]) made[key] = { ...trace[key], array: pick(trace[key].array), arrayminus: pick(trace[key].arrayminus) };
    }
    if (trace.marker) made.marker = Object.fromEntries(Object.entries(trace.marker).map(([key, value]) => [key, pick(value)]));
    return made;
  });
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
  const one = figureOf(plot);
  const layout = { ...themed(one.layout, colours(true), "#ffffff"), width: 1000, height: Number(plot.dataset.height) };
  return Plotly.downloadImage({ data: narrowed(one.data), layout }, { format, width: layout.width, height: layout.height, scale: format === "png" ? 2 : 1, filename: fileName(one) });
}

function draw(plot, printed = false) {
  const one = figureOf(plot);
  const layout = themed(one.layout, colours(printed), "rgba(0,0,0,0)");
  layout.height = heightOf(plot);
  layout.autosize = true;
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
  const drawn = Plotly.react(plot, narrowed(one.data), layout, config);
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

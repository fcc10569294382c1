// Which view is shown, by the address; colours; copying. Needs no plotly, so that the page can be read
// while that is still being loaded.
"use strict";

const BASE_TITLE = document.title;
const builtLayers = new Set();
let shownView = null;
let overviewScroll = 0;

function places() {
  const rows = [...document.querySelectorAll("#runs tbody tr[data-index]")];
  const left = rows.filter((row) => !row.hidden).map((row) => row.dataset.index);
  return left.length ? left : rows.map((row) => row.dataset.index);
}

// Previous and next follow the overview as it is sorted and filtered now.
function pointSteps(view, index) {
  const order = places();
  const at = order.indexOf(index);
  if (at < 0 || order.length < 2) return;
  const link = (kind, step) => {
    const anchor = view.querySelector(`.steps .${kind}`);
    if (anchor) anchor.href = `#run=${order[(at + step + order.length) % order.length]}`;
  };
  link("previous", -1);
  link("next", 1);
  view.querySelector(".steps .place").textContent = `${at + 1} of ${order.length}`;
}

function route() {
  const found = /^#run=(\d+)(?:\/([a-z]+))?$/.exec(location.hash);
  const view = (found && document.getElementById(`run-${found[1]}`)) || document.getElementById("overview");
  const isRun = view.id !== "overview";
  const changed = view !== shownView;
  if (changed) {
    if (shownView) {
      if (shownView.id === "overview") overviewScroll = scrollY;
      shownView.classList.remove("shown");
      forget(shownView);
    }
    view.classList.add("shown");
    const heading = view.querySelector("h2");
    document.title = isRun ? `${heading.textContent} - ${BASE_TITLE}` : BASE_TITLE;
    if (shownView) heading.focus({ preventScroll: true });
    shownView = view;
    if (isRun) prepareRun(view, found[1]);
  }
  const part = isRun && found[2] && document.getElementById(`run-${found[1]}-${found[2]}`);
  if (part) part.scrollIntoView();
  else if (changed) scrollTo(0, isRun ? 0 : overviewScroll);
}

function prepareRun(view, index) {
  pointSteps(view, index);
  const holder = view.querySelector(".layer-table");
  if (!holder || builtLayers.has(index)) return;
  builtLayers.add(index);
  new IntersectionObserver((entries, observer) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    buildLayers(holder, dataOf(index).layers);
  }, { rootMargin: "600px 0px" }).observe(holder);
}

function setUpThemes() {
  const buttons = [...document.querySelectorAll("[data-theme-choice]")];
  const root = document.documentElement;
  function press() {
    const now = root.dataset.theme ?? "auto";
    buttons.forEach((one) => one.setAttribute("aria-pressed", String(one.dataset.themeChoice === now)));
  }
  buttons.forEach((one) => one.addEventListener("click", () => {
    const choice = one.dataset.themeChoice;
    if (choice === "auto") delete root.dataset.theme;
    else root.dataset.theme = choice;
    try {
      if (choice === "auto") localStorage.removeItem("edgejoule-theme");
      else localStorage.setItem("edgejoule-theme", choice);
    } catch (error) { /* not remembered then */ }
    press();
    redraw();
  }));
  DARK.addEventListener("change", redraw);
  press();
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch (error) {
    const area = document.createElement("textarea"); // where the clipboard is forbidden to files
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

function setUpCopying() {
  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", async () => {
      const done = await copied(button.parentElement.querySelector("code").textContent);
      button.textContent = done ? "Copied" : "Select it by hand";
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }
}

setUpThemes();
setUpOverview(narrowFigures);
setUpCopying();
addEventListener("hashchange", route);
history.scrollRestoration = "manual";
route();

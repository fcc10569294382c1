// Tables that sort and filter: the overview, which is in the page, and layers, made from JSON.
"use strict";

const LONG_NAME = 120;

// Numbers before texts, missing ones last in both directions.
function compareKeys(a, b, sign) {
  const none = (key) => key === null || key === undefined || key === "";
  if (none(a) || none(b)) return none(a) - none(b);
  const numbers = [Number(a), Number(b)];
  if (!Number.isNaN(numbers[0]) && !Number.isNaN(numbers[1])) return sign * (numbers[0] - numbers[1]);
  return sign * String(a).localeCompare(String(b), "en", { numeric: true });
}

// The first click on a number sorts the greatest first, on a text from A; the next turns it round.
function nextDirection(header) {
  const now = header.getAttribute("aria-sort");
  if (now) return now === "ascending" ? "descending" : "ascending";
  return header.classList.contains("number") ? "descending" : "ascending";
}

function markSorted(header, direction) {
  for (const other of header.parentElement.children) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", direction);
}

function makeSortable(table, keyOf) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    header.querySelector("button").addEventListener("click", () => {
      const direction = nextDirection(header);
      const sign = direction === "ascending" ? 1 : -1;
      const body = table.tBodies[0];
      const keyed = [...body.rows].map((row, place) => ({ row, place, key: keyOf(row, column) }));
      keyed.sort((a, b) => compareKeys(a.key, b.key, sign) || a.place - b.place);
      body.append(...keyed.map((one) => one.row));
      markSorted(header, direction);
    });
  });
}

function simplified(text) {
  return text.normalize("NFKC").toLocaleLowerCase();
}

// The overview: a text and any number of drop-downs; tells `changed` the places of what is left.
function setUpOverview(changed) {
  const table = document.getElementById("runs");
  if (!table) return;
  makeSortable(table, (row, column) => row.cells[column].dataset.sort ?? null);
  const rows = [...table.tBodies[0].rows];
  const texts = new Map(rows.map((row) => [row, simplified(row.textContent)]));
  const find = document.getElementById("find");
  const choices = [...document.querySelectorAll("#controls select")];
  function filter() {
    const wanted = simplified(find.value.trim());
    const left = rows.filter((row) => {
      const fits = choices.every((one) => !one.value || row.dataset[one.dataset.filter] === one.value);
      row.hidden = !(fits && texts.get(row).includes(wanted));
      return !row.hidden;
    });
    document.getElementById("count").textContent = `${left.length} of ${rows.length} runs`;
    document.getElementById("none-left").hidden = left.length > 0;
    changed(left.length === rows.length ? null : new Set(left.map((row) => Number(row.dataset.place))));
  }
  find.addEventListener("input", filter);
  choices.forEach((one) => one.addEventListener("change", filter));
  document.getElementById("controls").addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("all-columns").addEventListener("change", (event) => {
    table.classList.toggle("every", event.target.checked);
  });
}

// Four significant digits, without an exponent where there is room.
function figure(value, digits = 4) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) return value.toExponential(digits - 1).replace(/\.?0+e/, "e");
  if (size >= 10 ** (digits - 1)) return String(Math.round(value));
  return String(Number(value.toPrecision(digits)));
}

function element(tag, text, kind) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function isolated(text) {
  return element("bdi", text);
}

function longText(cell, text) {
  cell.classList.add("long");
  const half = LONG_NAME / 2;
  const short = isolated(`${text.slice(0, half)} … ${text.slice(-half)}`);
  const more = element("button", "whole", "whole");
  more.type = "button";
  more.addEventListener("click", () => {
    const whole = more.textContent === "whole";
    short.textContent = whole ? text : `${text.slice(0, half)} … ${text.slice(-half)}`;
    more.textContent = whole ? "less" : "whole";
  });
  cell.append(short, more);
}

function layerCell(column, value, widest) {
  const cell = element("td", undefined, column.kind === "text" ? "" : "number");
  if (value === null || value === undefined) {
    cell.classList.add("absent");
    cell.textContent = "-";
    cell.title = "not recorded";
  } else if (column.kind === "text") {
    if (value.length > LONG_NAME + 20) longText(cell, value);
    else cell.append(isolated(value));
    if (value.length > 30) cell.classList.add("long");
  } else if (column.kind === "share") {
    cell.append(`${(100 * value).toFixed(1)} %`);
    const bar = element("span", undefined, "share-bar");
    bar.style.width = `${Math.max(0, Math.min(100, (100 * value) / (widest || 1)))}%`;
    cell.append(bar);
  } else if (Array.isArray(value)) {
    cell.append(figure(value[0]), " ", element("span", `± ${figure(value[1], 2)}`, "half"));
  } else {
    cell.textContent = figure(value);
  }
  return cell;
}

function layerKey(value) {
  return Array.isArray(value) ? value[0] : value;
}

function buildLayers(holder, layers) {
  const table = element("table", undefined, "sortable");
  const head = table.createTHead().insertRow();
  for (const column of layers.columns) {
    const header = element("th", undefined, column.kind === "text" ? "" : "number");
    header.scope = "col";
    const button = element("button", column.title);
    button.type = "button";
    button.title = column.help;
    header.append(button);
    head.append(header);
  }
  const widest = layers.columns.map((column, place) =>
    column.kind === "share" ? Math.max(0, ...layers.rows.map((row) => row[place] ?? 0)) : 0);
  const body = table.createTBody();
  const values = new Map();
  const texts = new Map();
  for (const row of layers.rows) {
    const line = element("tr");
    line.append(...layers.columns.map((column, place) => layerCell(column, row[place], widest[place])));
    values.set(line, row);
    texts.set(line, simplified(row.filter((value) => typeof value === "string").join("\n")));
    body.append(line);
  }
  makeSortable(table, (line, column) => layerKey(values.get(line)[column]));
  holder.querySelector(".scroll").append(table);
  const find = holder.querySelector("input");
  const count = holder.querySelector("output");
  holder.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  find.addEventListener("input", () => {
    const wanted = simplified(find.value.trim());
    let left = 0;
    for (const [line, text] of texts) {
      line.hidden = !text.includes(wanted);
      left += line.hidden ? 0 : 1;
    }
    count.textContent = `${left} of ${texts.size} layers`;
  });
}

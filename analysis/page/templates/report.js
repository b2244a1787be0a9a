"use strict";
// The code of the page: it filters rows, passes them to Vega, and sorts tables. Data and figures are in #page-data.
const page = JSON.parse(document.getElementById("page-data").textContent);
for (const figure of page.figures) figure.rows = rows_from(figure.columns);
const shown = {}; // filter name → set of the selected values
const views = []; // {figure, panel, view}
window.thinkload = { drawn: 0, failed: 0, done: false }; // read by the browser test

const visible = (row, filters) => filters.every((f) => !(f in shown) || row[f] === undefined || row[f] === null || shown[f].has(String(row[f])));
const rowsOf = (figure, panel) => figure.rows.filter((row) => (panel === null || row[figure.panel] === panel) && visible(row, figure.filters));

function rows_from(columns) {
  const values = Object.entries(columns).map(([name, c]) => [name, Array.isArray(c) ? c : c.codes.map((n) => c.words[n])]);
  return (values[0]?.[1] ?? []).map((_, n) => Object.fromEntries(values.map(([name, column]) => [name, column[n]])));
}

function visibleRows(figure, panel, box) {
  const rows = rowsOf(figure, panel);
  box.hidden = rows.length === 0; // without rows, Vega would warn about scales without extent
  return rows;
}

async function draw(figure) {
  const target = document.querySelector(`#${figure.name} .panels`);
  const panels = figure.panel ? [...new Set(figure.rows.map((row) => row[figure.panel]))] : [null];
  for (const panel of panels) {
    const box = document.createElement("div");
    if (panel) box.append(Object.assign(document.createElement("h4"), { textContent: panel }));
    const plot = Object.assign(document.createElement("div"), { className: "plot" });
    box.append(plot);
    target.append(box);
    const spec = { ...figure.spec, datasets: { rows: visibleRows(figure, panel, box) }, background: null };
    spec.config = { ...spec.config, font: page.font, legend: { disable: true }, view: { stroke: null } };
    try {
      const { view } = await vegaEmbed(plot, spec, { actions: false, renderer: "svg", logLevel: 1 /* errors only: a filter may leave one layer of a chart without rows */ });
      views.push({ figure, panel, view, box });
      view.addEventListener("click", (_, item) => item && item.datum && item.datum.link && open_run(item.datum.link));
      window.thinkload.drawn += 1;
    } catch (error) {
      window.thinkload.failed += 1;
      console.error(figure.name, error);
    }
  }
}

function open_run(link) {
  const run = document.querySelector(link);
  if (run) { run.open = true; run.scrollIntoView({ behavior: "smooth" }); }
}

function refresh() {
  for (const { figure, panel, view, box } of views) {
    const rows = visibleRows(figure, panel, box);
    if (rows.length) view.data("rows", rows).resize().runAsync();
  }
  for (const row of document.querySelectorAll("tr[data-row]")) row.hidden = !visible(JSON.parse(row.dataset.row), Object.keys(shown));
}

for (const input of document.querySelectorAll(".chip input")) {
  (shown[input.name] ??= new Set()).add(input.value);
  input.addEventListener("change", () => { shown[input.name][input.checked ? "add" : "delete"](input.value); refresh(); });
}
document.getElementById("reset")?.addEventListener("click", () => {
  for (const input of document.querySelectorAll(".chip input")) { input.checked = true; shown[input.name].add(input.value); }
  refresh();
});
addEventListener("beforeprint", () => document.querySelectorAll(".notice details").forEach((notice) => { notice.open = true; })); // paper has no fold
document.getElementById("theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).colorScheme.includes("dark");
  document.documentElement.dataset.theme = dark ? "light" : "dark";
});
for (const th of document.querySelectorAll("th")) {
  th.addEventListener("click", () => {
    const body = th.closest("table").tBodies[0], column = th.cellIndex, up = th.dataset.up !== "1";
    th.dataset.up = up ? "1" : "0";
    const key = (tr) => { const cell = tr.cells[column], n = parseFloat(cell.dataset.v ?? "x"); return Number.isNaN(n) ? cell.textContent : n; };
    body.append(...[...body.rows].sort((a, b) => { const x = key(a), y = key(b); return (x > y ? 1 : x < y ? -1 : 0) * (up ? 1 : -1); }));
  });
}
for (const button of document.querySelectorAll(".csv")) {
  button.addEventListener("click", () => {
    const plain = (text) => (/^[=+\-@\t\r]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text); // no formulas in a spreadsheet
    const quote = (text) => (/[",\r\n]/.test(plain(text)) ? `"${plain(text).replaceAll('"', '""')}"` : plain(text));
    const rows = [...document.querySelector(`#${button.dataset.table}`).rows].map((tr) => [...tr.cells].map((c) => quote(c.dataset.v ?? c.textContent.trim())).join(","));
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(new Blob([rows.join("\n") + "\n"], { type: "text/csv" })), download: `${button.dataset.table}.csv` });
    link.click();
    URL.revokeObjectURL(link.href);
  });
}
for (const link of document.querySelectorAll('a[href^="#run-"]')) link.addEventListener("click", () => open_run(link.getAttribute("href")));
(async () => { for (const figure of page.figures) await draw(figure); window.thinkload.done = true; })();

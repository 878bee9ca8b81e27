// Runs: the list, and curves and newest grid of one or two of them, growing while they train.

import { json } from "/net.js";

const COLOURS = ["#f0f0f0", "#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#d55e00", "#9ad0a0"];
const CHARTS = {
  Generators: ["loss_g", "gan", "cycle", "identity", "structure", "truth", "half_real", "pairs"],
  Discriminators: ["loss_d_ct", "loss_d_mr"],
};
const EVERY_MS = 3000;
const MOST = 4000; // rows of a curve that are kept

function time(seconds) {
  if (seconds === null) return "-";
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

class Run {
  constructor(run, place, text) {
    Object.assign(this, { rows: [], text });
    this.root = text("article", "", "run");
    this.title = text("h2", run.name);
    this.about = text("p", "");
    this.charts = Object.keys(CHARTS).map((name) => {
      const canvas = document.createElement("canvas");
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `${name}: losses by step`);
      const legend = text("p", "", "legend");
      const title = text("h3", name);
      this.root.append(title, canvas, legend);
      return { name, title, canvas, legend };
    });
    this.grid = document.createElement("img");
    this.grid.alt = "newest sample grid";
    this.root.prepend(this.title, this.about);
    this.root.append(text("h3", "Newest grid"), this.grid);
    place.append(this.root);
    this.resized = new ResizeObserver(() => this.draw());
    this.resized.observe(this.root);
    this.id = run.id;
    this.source = new EventSource(`/runs/${run.id}/events`);
    this.source.addEventListener("rows", (event) => this.add(JSON.parse(event.data)));
    this.source.addEventListener("summary", (event) => this.tell(JSON.parse(event.data)));
  }

  add({ anew, rows }) {
    if (anew) this.rows = [];
    this.rows.push(...rows);
    if (this.rows.length > MOST) this.rows = this.rows.filter((_, n) => n % 2 === 0);
    this.root.dataset.rows = this.rows.length;
    this.draw();
  }

  tell(summary) {
    const { evaluation, grid, report } = summary;
    const parts = [summary.state, `step ${summary.step}${summary.total ? ` of ${summary.total}` : ""}`];
    if (summary.seconds_left !== null) parts.push(`${time(summary.seconds_left)} left`);
    this.about.textContent = parts.join(", ");
    this.about.className = `state-${summary.state}`;
    if (evaluation) {
      const shown = ([name, v]) => `${name.replaceAll("_", " ")} ${+v.toPrecision(3)}`;
      const figures = Object.entries(evaluation.directions).map(([direction, found]) =>
        this.text("small", `${direction}: ${Object.entries(found).map(shown).join(", ")}`));
      this.about.append(this.text("small", `Evaluation at step ${evaluation.step}`), ...figures);
    }
    if (report) {
      const link = this.text("a", "Report");
      Object.assign(link, { href: `/runs/${this.id}/report`, target: "_blank", rel: "noopener" });
      this.about.append(link);
    }
    this.grid.hidden = grid === null;
    if (grid !== null) this.grid.src = `/runs/${this.id}/grids/${grid}.png`;
  }

  draw() {
    for (const { name, title, canvas, legend } of this.charts) {
      const keys = CHARTS[name].filter((key) => this.rows.some((row) => row[key]));
      for (const part of [title, canvas, legend]) part.hidden = !keys.length;
      if (this.rows.length) chart(canvas, this.rows, keys);
      legend.replaceChildren(...keys.map((key, n) => {
        const last = this.rows[this.rows.length - 1][key];
        const item = this.text("span", `${key.replaceAll("_", " ")} ${last === undefined ? "" : +last.toPrecision(3)}`);
        item.style.color = COLOURS[n];
        return item;
      }));
    }
  }

  close() {
    this.source.close();
    this.resized.disconnect();
    this.root.remove();
  }
}

function chart(canvas, rows, keys) {
  const ratio = window.devicePixelRatio;
  const [width, height] = [canvas.clientWidth * ratio, canvas.clientHeight * ratio];
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  const values = keys.flatMap((key) => rows.map((row) => row[key])).filter(Number.isFinite).sort((a, b) => a - b);
  if (!values.length) return;
  const top = values[Math.floor((values.length - 1) * 0.995)] * 1.1 || 1;
  const last = rows[rows.length - 1].step || 1;
  const left = 44 * ratio;
  const base = height - 20 * ratio;
  context.fillStyle = "#aab5bf";
  context.strokeStyle = "#39424b";
  context.font = `${12 * ratio}px sans-serif`;
  for (let n = 0; n <= 4; n += 1) {
    const y = base - (base * 0.95 * n) / 4;
    context.fillText(+((top * n) / 4).toPrecision(2), 4 * ratio, y + 4 * ratio - (n ? 0 : 4 * ratio));
    context.beginPath();
    context.moveTo(left, y);
    context.lineTo(width, y);
    context.stroke();
  }
  context.textAlign = "right";
  context.fillText(`step ${last}`, width - 4 * ratio, height - 5 * ratio);
  context.textAlign = "left";
  context.lineWidth = 1.5 * ratio;
  keys.forEach((key, n) => {
    context.strokeStyle = COLOURS[n];
    context.beginPath();
    for (const row of rows) {
      if (!Number.isFinite(row[key])) continue;
      context.lineTo(left + ((width - left) * row.step) / last, base - (base * 0.95 * Math.min(row[key], top)) / top);
    }
    context.stroke();
  });
}

export function watchRuns(table, panes, none, text) {
  const open = new Map();
  const choose = (run, on) => {
    if (on && open.size >= 2) {
      const [oldest] = open.keys();
      open.get(oldest).close();
      open.delete(oldest);
    }
    if (on) open.set(run.id, new Run(run, panes, text));
    else {
      open.get(run.id)?.close();
      open.delete(run.id);
    }
    list();
  };
  const list = async () => {
    const { runs = [] } = await json(fetch("/runs"));
    table.hidden = !runs.length;
    none.hidden = runs.length > 0;
    const focused = document.activeElement?.id;
    table.tBodies[0].replaceChildren(...runs.map((run) => {
      const row = document.createElement("tr");
      const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: open.has(run.id) });
      box.id = `run-${run.id}`;
      box.setAttribute("aria-label", `Show ${run.name}`);
      box.addEventListener("change", () => choose(run, box.checked));
      const cell = text("td", "");
      cell.append(box);
      const total = run.total ? ` of ${run.total}` : "";
      row.append(cell, text("td", run.name), text("td", run.state, `state-${run.state}`),
        text("td", `${run.step}${total}`), text("td", time(run.seconds_left)));
      return row;
    }));
    if (focused) document.getElementById(focused)?.focus();
  };
  const turn = async () => {
    if (!document.getElementById("runs").hidden) await list();
    setTimeout(turn, EVERY_MS);
  };
  document.getElementById("tab-runs").addEventListener("click", list);
  turn();
}

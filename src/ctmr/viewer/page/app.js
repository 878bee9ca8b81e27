// The page: scans in, orders, results, and what shows them.

import { MAP_WHITE, PANES, PRESETS, screenOf, shown } from "/display.js";
import { change, dropped, enter, json, upload } from "/net.js";
import { watchRuns } from "/runs.js";
import { SliceViewer } from "/slices.js";
import { VolumeViewer } from "/volumes.js";

const $ = (name) => document.getElementById(name);
const WORDS = {
  ok: "OK: the scan is like those that the model was trained on",
  warn: "WARNING: look closely at this translation",
  refuse: "REFUSED BY THE QUALITY CHECK: do not use this translation",
  unknown: "UNKNOWN: nothing is known of the model's training images",
};
const ANYWAY = { "--anyway": "anyway", "--irregular": "irregular", "--geometry": "geometry", "--ct-values": "ct-values",
  "--series": "series" };
const names = new Map(); // job -> what the user called it; never sent
let current = null; // the job that is shown
let viewer = null;
let models = [];
let hasNiivue = false;
let why = ""; // there is no NiiVue
let chosen = {};

function text(tag, content, className) {
  const made = document.createElement(tag);
  made.textContent = content;
  if (className) made.className = className;
  return made;
}

// A paragraph in which no option of the command is cut in two.
function withOptions(content) {
  const made = document.createElement("p");
  made.append(...content.split(/(--[a-z-]+)/).map((part) => (part.startsWith("--") ? text("code", part) : part)));
  return made;
}

const say = (content) => ($("say").textContent = content);

function showError(error, leftOut) {
  $("error").hidden = !error;
  $("error").replaceChildren();
  if (!error) return;
  const file = error.file ? `${error.file}: ` : "";
  $("error").append(text("strong", error.exit === 8 || error.exit === 3 ? "Refused" : "Failed"));
  $("error").append(text("p", `${file}${error.what}.`), withOptions(`Fix: ${error.fix}.`), text("small", error.code));
  if (leftOut) $("error").append(text("p", `${leftOut} other files were left out`));
  const ways = Object.keys(ANYWAY).filter((option) => error.fix.includes(option));
  if (ways.length) $("options").open = true;
}

function clear() {
  current = null;
  showError(null);
  closeViewer();
  for (const part of ["order", "result", "progress"]) $(part).hidden = true;
}

async function take(files, name) {
  if (!files.length) return;
  clear();
  const added = await json(change("POST", "/jobs"));
  if (added.error) return showError(added.error);
  current = added.id;
  names.set(added.id, name);
  const sent = await upload(added.id, files, (n, all) => say(`Reading file ${n + 1} of ${all}`));
  say("");
  if (sent.error) return showError(sent.error);
  if (sent.leftOut === files.length) {
    change("DELETE", `/jobs/${added.id}`);
    const what = "expected DICOM, NIfTI, MetaImage, NRRD, MGH, PNG, JPEG, TIFF or .zip: found other files";
    return showError({ code: "E300", what, fix: "drop a scan", exit: 3 });
  }
  say("Looking at the scan");
  const looking = await json(change("POST", `/jobs/${added.id}/look`));
  if (!looking.state) return showError(looking.error);
  await follow(added.id);
}

// Asks for a job until it waits for the user.
async function follow(id) {
  for (;;) {
    const job = await json(fetch(`/jobs/${id}`));
    if (current !== id) return;
    if (!job.state) {
      $("progress").hidden = true;
      return showError(job.error);
    }
    show(job);
    if (!["looking", "waiting", "running"].includes(job.state)) break;
    await new Promise((done) => setTimeout(done, 250));
  }
  listScans();
}

function show(job) {
  const busy = job.state === "waiting" || job.state === "running";
  $("progress").hidden = !busy;
  $("order").hidden = busy || !job.look;
  $("result").hidden = job.state !== "done";
  if (job.state !== "looking") say(job.state === "cancelled" ? "Cancelled" : "");
  if (busy) showProgress(job);
  showError(job.state === "failed" ? job.error : job.look?.problem ? split(job.look.problem) : null);
  if (job.look) showOrder(job);
  if (job.state === "done") showResult(job);
}

function split(problem) {
  const [what, fix] = problem.split(". Fix: ");
  return { code: "E800", what, fix: (fix ?? "").replace(/\.$/, ""), exit: 8 };
}

function showProgress(job) {
  const { done, total, left, drawing } = job.progress ?? {};
  if (total) $("bar").value = done / total;
  else $("bar").removeAttribute("value");
  const rest = left === null || left === undefined ? "" : `, about ${Math.ceil(left)} s left`;
  const waits = job.state === "waiting" ? "Waiting for another scan" : "Reading the scan";
  $("left").textContent = drawing ? "Preparing the view" : total ? `Slice ${done} of ${total}${rest}` : waits;
}

function size(grid) {
  const sides = grid.spacing.map((mm) => +(mm ?? 0).toPrecision(4));
  const spacing = sides.every((mm) => mm) ? `${sides.join(" x ")} mm` : "";
  return [grid.shape.join(" x "), spacing].filter(Boolean).join(", ");
}

function showOrder(job) {
  const { look } = job;
  const key = job.id + JSON.stringify(look.series);
  $("found").textContent = names.get(job.id) ?? "Scan";
  const kinds = { series: "DICOM series", volume: "Volume", image: "Picture" };
  const parts = [kinds[look.kind], look.modality?.toUpperCase(), look.shape && size(look)];
  if (look.left_out) parts.push(`${look.left_out} other files left out`);
  $("details").textContent = parts.filter(Boolean).join(", ");
  if ($("order").dataset.key === key) return;
  $("order").dataset.key = key;
  $("order").reset();
  if (look.modality) $("to").value = look.modality === "ct" ? "mr" : "ct";
  const rows = look.series.map((row) => [row[0], row.join("  ")]);
  fill($("series"), [["", "the one that fits best"], ...rows]);
  $("series-label").hidden = !rows.length;
  offerModels();
  if (job.state === "looked") $("go").focus();
}

function fill(select, rows) {
  select.replaceChildren(...rows.map(([value, label]) => Object.assign(text("option", label), { value })));
}

function offerModels() {
  const direction = $("to").value === "ct" ? "mr-to-ct" : "ct-to-mr";
  const fitting = models.filter((model) => model.directions.includes(direction));
  const rows = fitting.map((model) => [model.sha256, `${model.name} (${direction}, ${model.sha256.slice(0, 8)})`]);
  fill($("model"), rows);
}

async function order(quality = "fast") {
  showError(null);
  const reading = {
    anyway: $("anyway").checked,
    irregular: $("irregular").checked,
    geometry: $("geometry").value || null,
    series: $("series").value ? [$("series").value] : [],
    ct_values: $("ct-values").value.trim() || null,
  };
  const asked = { to: $("to").value, model: $("model").value, quality, slices: !hasNiivue, reading };
  closeViewer();
  const job = await json(change("POST", `/jobs/${current}/translate`, JSON.stringify(asked)));
  if (job.error && !job.state) return showError(job.error);
  show(job);
  $("cancel").focus(); // which is shown now
  await follow(current);
}

// --- a result

async function showResult(job) {
  const { view } = job;
  const { quality, direction, model_sha256: sha } = view.sidecar;
  if (viewer?.job === job.id) return;
  $("options").open = false;
  $("quality").className = quality.level;
  $("quality").textContent = `Quality: ${WORDS[quality.level]}`;
  const all = [...quality.why, ...(view.sidecar.notes ?? []), ...job.notes];
  $("reasons").replaceChildren(...[...new Set(all)].map((reason) => text("li", reason)));
  showDownloads(job);
  const to = direction.slice(-2).toUpperCase();
  const model = models.find((each) => each.sha256 === sha);
  const from = view.panes.source;
  caption("source", `SOURCE ${from.modality}`, size(view.grid));
  caption("translation", `SYNTHETIC ${to}`, `${direction} by ${model?.name ?? "model"} ${sha.slice(0, 8)}`);
  await openViewer(job);
  const maps = Object.keys(view.panes).filter((name) => name !== "source" && name !== "translation");
  const useful = maps.filter((name) => !(model?.correlations?.[direction]?.[name]?.spearman <= 0));
  const rows = useful.map((name) => [name, `uncertainty: ${name.replace("_", " ")}`]);
  fill($("over"), [["translation", `the synthetic ${to}`], ...rows]);
  overlay();
  const seconds = Math.ceil((view.seconds * 3) / 1.125);
  $("full").hidden = maps.length > 0;
  $("full").textContent = `Compute uncertainty maps (about ${seconds} s)`;
  const known = model?.correlations?.[direction];
  const measured = known && Object.keys(known).length;
  const hidden = maps.length > useful.length ? "A map that does not rank the true error is hidden. " : "";
  const unknown = maps.length && !measured ? "How well maps rank the true error was not measured for this model. " : "";
  $("view-note").textContent = [hidden, unknown, why && view.kind === "volume" ? `Slices only: ${why}. ` : "",
    view.kind === "volume" ? "Radiological: the patient's right is at the left of the screen." :
      "A picture does not say where left and right are."].join("");
}

function caption(pane, title, more) {
  $(`pane-${pane}`).querySelector("figcaption").replaceChildren(text("span", title), text("small", more));
}

function showDownloads(job) {
  const stem = (names.get(job.id) ?? "scan").replace(/\.(nii\.gz|[a-z0-9]+)$/i, "");
  const labels = { result: "Translation", volume: "NIfTI", sidecar: "JSON", preview: "Preview",
    cycle_error: "Cycle error", disagreement: "Disagreement" };
  const { files } = job.view;
  const own = (name) => files[name] && (name !== "volume" || files.volume !== files.result);
  const links = Object.entries(labels).filter(([name]) => own(name));
  $("downloads").replaceChildren(...links.map(([name, label]) => {
    const link = text("a", label, "button");
    link.href = `/jobs/${job.id}/results/${name}`;
    const [, end] = /(\.nii\.gz|\.[a-z]+)$/.exec(files[name]) ?? ["", ""];
    link.download = `${stem}-synthetic${name === "result" || name === "volume" ? "" : `-${name}`}${end}`;
    return link;
  }));
  const shot = text("button", "Screenshot");
  shot.addEventListener("click", () => screenshot(stem));
  $("downloads").append(shot);
}

async function openViewer(job) {
  const { view } = job;
  $("empty").hidden = true;
  for (const part of ["tools", "panes", "below"]) $(part).hidden = false;
  for (const pane of ["translation", "blend"]) screenOf(pane).replaceChildren(text("div", "SYNTHETIC", "mark"));
  screenOf("source").replaceChildren();
  const moved = (place) => showPlace(view, place);
  if (hasNiivue && view.kind === "volume") viewer = await VolumeViewer.open(job.id, view, moved);
  else viewer = new SliceViewer(job.id, view, moved);
  viewer.job = job.id;
  viewer.about = view;
  for (const side of ["source", "translation"]) {
    const { hu, window } = view.panes[side];
    if (!hu) setWindow(side, window);
  }
  const buttons = (names, act) => names.map((name, n) => {
    const made = text("button", name);
    made.addEventListener("click", () => act(name));
    made.title = `key ${n + 1}`;
    return made;
  });
  $("planes").replaceChildren(...buttons(viewer.planes(), setPlane));
  const ct = Object.values(view.panes).some((about) => about.hu);
  $("presets").replaceChildren(...(ct ? buttons(Object.keys(PRESETS), preset) : []));
  if (ct) preset("brain");
  setPlane(viewer.planes()[0]);
  viewer.move(viewer.at);
}

function closeViewer() {
  viewer?.close();
  viewer = null;
  $("values").textContent = "";
  for (const part of ["tools", "panes", "below"]) $(part).hidden = true;
  $("empty").hidden = false;
}

const AXES = { axial: 2, coronal: 1, sagittal: 0, all: 2, "3-D": 2 };

function setPlane(plane) {
  if (!viewer?.planes().includes(plane)) return;
  chosen.plane = plane;
  for (const button of $("planes").children) button.setAttribute("aria-pressed", button.textContent === plane);
  $("slice-label").hidden = plane === "image" || plane === "3-D";
  $("pane-blend").hidden = plane === "3-D"; // the one would hide the other
  viewer.setPlane(plane);
  showSlider();
}

function showSlider() {
  const axis = AXES[chosen.plane];
  if (axis === undefined) return;
  const count = viewer.about.grid.shape[axis];
  $("slice").max = count;
  $("slice").value = viewer.at[axis] + 1;
  $("at").textContent = `${viewer.at[axis] + 1} of ${count}`;
}

function step(by) {
  const axis = AXES[chosen.plane];
  if (!viewer || axis === undefined) return;
  const at = [...viewer.at];
  at[axis] = Math.max(0, Math.min(viewer.about.grid.shape[axis] - 1, at[axis] + by));
  viewer.move(at);
}

function preset(name) {
  for (const [side, about] of Object.entries(viewer.about.panes)) if (about.hu) setWindow(side, PRESETS[name]);
  for (const button of $("presets").children) button.setAttribute("aria-pressed", button.textContent === name);
}

function setWindow(side, window) {
  chosen[side] = window;
  viewer.setWindow(side, window);
  const { unit } = viewer.about.panes[side];
  const [low, high] = window;
  const shape = `${+(high - low).toPrecision(4)}, level ${+((low + high) / 2).toPrecision(4)} ${unit}`;
  const figure = $(`pane-${side}`).querySelector("figcaption");
  figure.querySelector(".window")?.remove();
  figure.append(text("small", `window ${shape}`, "window"));
}

function overlay() {
  const over = $("over").value;
  viewer.setOver(over, $("opacity").value / 100);
  const what = over === "translation" ? "SYNTHETIC" : `UNCERTAINTY (white: ${MAP_WHITE * 100} % of the range)`;
  caption("blend", `SOURCE + ${what}`, `${over.replace("_", " ")} at ${$("opacity").value} %`);
}

function showPlace(view, { at, mm, values }) {
  if (!viewer) return;
  const mms = mm?.map((v, k) => `${"RAS"[k]} ${v.toFixed(1)}`).join(", ");
  const place = mm ? `${mms} mm` : `column ${at[0] + 1}, row ${at[1] + 1}`;
  const parts = Object.entries(values).filter(([side]) => view.panes[side]).map(([side, value]) => {
    const name = side === "source" ? `source ${view.panes.source.modality}` : side.replace("_", " ");
    const synthetic = `synthetic ${view.panes.translation.modality}`;
    return `${side === "translation" ? synthetic : name} ${shown(value, view.panes[side])}`;
  });
  $("values").textContent = [place, ...parts].join(" | ");
  $("values").dataset.mm = mm ? mm.map((v) => v.toFixed(2)).join(" ") : "";
  for (const pane of PANES) screenOf(pane).setAttribute("aria-label", `${pane}: ${$("values").textContent}`);
  if (viewer.at) showSlider();
}

async function screenshot(stem) {
  const seen = PANES.filter((pane) => !$(`pane-${pane}`).hidden);
  const pictures = seen.map((pane) => [pane, viewer.picturesOf(pane)]);
  const width = pictures.reduce((sum, [, each]) => sum + each.width, 0);
  const height = Math.max(...pictures.map(([, each]) => each.height));
  const canvas = Object.assign(document.createElement("canvas"), { width, height: height + 88 });
  const context = canvas.getContext("2d");
  context.fillRect(0, 0, width, height + 88);
  let x = 0;
  for (const [pane] of pictures) { // drawn and copied in one turn, while WebGL still has it
    const picture = viewer.picturesOf(pane);
    context.drawImage(picture, x, 88);
    context.fillStyle = pane === "source" ? "#ffffff" : "#ffb454";
    context.font = "600 16px sans-serif";
    context.fillText($(`pane-${pane}`).querySelector("figcaption span").textContent, x + 8, 74);
    x += picture.width;
  }
  context.fillStyle = "#ffb454";
  context.fillRect(0, 0, width, 44);
  context.fillStyle = "#1d1200";
  context.font = "600 17px sans-serif";
  context.fillText($("banner").textContent.replace(/\s+/g, " "), 10, 29, width - 20);
  const link = document.createElement("a");
  link.download = `${stem}-synthetic.png`;
  link.href = canvas.toDataURL("image/png");
  link.click();
}

async function listScans() {
  const { jobs } = await json(fetch("/jobs"));
  $("scans-title").hidden = !jobs?.length;
  $("scans").replaceChildren(...(jobs ?? []).map((job) => {
    const item = document.createElement("li");
    const open = text("button", `${names.get(job.id) ?? "Scan"} (${job.state})`);
    open.addEventListener("click", () => {
      current = job.id;
      closeViewer();
      follow(job.id);
    });
    const remove = text("button", "Delete");
    remove.setAttribute("aria-label", `Delete ${names.get(job.id) ?? "scan"}`);
    remove.addEventListener("click", async () => {
      await change("DELETE", `/jobs/${job.id}`);
      if (current === job.id) clear();
      listScans();
    });
    item.append(open, remove);
    return item;
  }));
}

// --- input

function windowing() {
  let from = null;
  const begins = (event) => event.button === 2 || event.shiftKey || $("window-drag").checked;
  for (const pane of PANES) {
    const screen = screenOf(pane);
    const side = pane === "blend" ? "source" : pane;
    for (const name of ["pointerdown", "mousedown", "touchstart"]) {
      screen.addEventListener(name, (event) => {
        if (!viewer || (!begins(event) && name !== "touchstart") || (name === "touchstart" && !from)) return;
        event.stopPropagation();
        if (name !== "pointerdown") return;
        from = { x: event.clientX, y: event.clientY, window: chosen[side], side };
        screen.setPointerCapture(event.pointerId);
      }, true);
    }
    for (const name of ["pointermove", "mousemove", "touchmove"]) {
      screen.addEventListener(name, (event) => {
        if (!from || from.side !== side) return;
        event.stopPropagation();
        if (name !== "pointermove") return;
        const [low, high] = from.window;
        const speed = (high - low) / 250;
        const width = Math.max((high - low) * 0.01, high - low + (event.clientX - from.x) * speed);
        const level = (low + high) / 2 + (event.clientY - from.y) * speed;
        setWindow(side, [level - width / 2, level + width / 2]);
      }, true);
    }
    for (const name of ["pointerup", "pointercancel"]) screen.addEventListener(name, () => (from = null), true);
    screen.addEventListener("contextmenu", (event) => event.preventDefault(), true);
    screen.addEventListener("wheel", (event) => {
      event.preventDefault();
      if (chosen.plane === "3-D") return;
      event.stopPropagation();
      step(event.deltaY > 0 ? -1 : 1);
    }, { capture: true, passive: false });
  }
}

const PLANE_KEYS = { a: "axial", c: "coronal", s: "sagittal", m: "all", r: "3-D" };

function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || !viewer) return;
  if (/^(INPUT|SELECT)$/.test(event.target.tagName)) return;
  const steps = { ArrowUp: 1, ArrowDown: -1, PageUp: 10, PageDown: -10 };
  if (event.key in steps) step(steps[event.key]);
  else if (/^[1-4]$/.test(event.key) && $("presets").children.length) {
    preset(Object.keys(PRESETS)[event.key - 1]);
  } else if (event.key.toLowerCase() in PLANE_KEYS) setPlane(PLANE_KEYS[event.key.toLowerCase()]);
  else return;
  event.preventDefault();
  event.stopPropagation();
}

function listen() {
  document.addEventListener("keydown", key, true);
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("over");
  }, true);
  document.addEventListener("dragleave", () => document.body.classList.remove("over"), true);
  document.addEventListener("drop", async (event) => { // before NiiVue, which lets none through
    event.preventDefault();
    event.stopPropagation();
    document.body.classList.remove("over");
    if (event.dataTransfer.types.includes("Files")) clear(); // a folder takes a while to be listed
    const name = event.dataTransfer.items[0]?.webkitGetAsEntry?.()?.name ?? event.dataTransfer.files[0]?.name;
    take(await dropped(event.dataTransfer), name ?? "Scan");
  }, true);
  for (const id of ["files", "folder"]) {
    $(id).addEventListener("change", () => {
      const files = [...$(id).files].sort((a, b) => (a.name < b.name ? -1 : 1));
      const name = files[0]?.webkitRelativePath.split("/")[0] || files[0]?.name;
      take(files, name ?? "Scan");
      $(id).value = "";
    });
  }
  $("to").addEventListener("change", offerModels);
  $("order").addEventListener("submit", (event) => {
    event.preventDefault();
    order();
  });
  $("full").addEventListener("click", () => order("full"));
  $("cancel").addEventListener("click", () => change("POST", `/jobs/${current}/cancel`));
  $("slice").addEventListener("input", () => step($("slice").value - 1 - viewer.at[AXES[chosen.plane]]));
  $("over").addEventListener("change", overlay);
  $("opacity").addEventListener("input", overlay);
  for (const [name, other] of [["scan", "runs"], ["runs", "scan"]]) {
    $(`tab-${name}`).addEventListener("click", () => {
      for (const [page, on] of [[name, true], [other, false]]) {
        $(page).hidden = !on;
        $(`tab-${page}`).setAttribute("aria-pressed", on);
      }
    });
  }
  windowing();
}

async function begin() {
  if (!(await enter())) return showError({ code: "E200", what: "this link was used or is wrong",
    fix: "start ctmr view again and open the URL that it prints", exit: 2 });
  const { niivue } = await json(fetch("/about"));
  const webgl = Boolean(document.createElement("canvas").getContext("webgl2"));
  why = !niivue ? "NiiVue is not installed with this ctmr" : webgl ? "" : "this browser has no WebGL 2";
  hasNiivue = !why;
  ({ models = [] } = await json(fetch("/models")));
  listen();
  listScans();
  watchRuns($("run-table"), $("run-panes"), $("no-runs"), text);
  document.body.dataset.ready = why || "niivue";
}

begin();

// The viewer without WebGL: slices as the job's child drew them, windowed here.

import { MAP_WHITE, PANES, PLANES, grey, screenOf, toMm } from "/display.js";

const KEPT = 400; // decoded slices

export class SliceViewer {
  constructor(job, view, moved) {
    Object.assign(this, { job, view, moved, cache: new Map(), plane: view.kind === "image" ? "image" : "axial" });
    this.windows = {};
    this.over = "translation";
    this.opacity = 0.5;
    this.at = view.grid.shape.map((n) => Math.floor(n / 2));
    this.canvases = {};
    for (const pane of PANES) {
      const canvas = document.createElement("canvas");
      screenOf(pane).prepend(canvas);
      this.canvases[pane] = canvas;
      canvas.addEventListener("pointerdown", (event) => this.point(pane, event));
      canvas.addEventListener("pointermove", (event) => event.buttons === 1 && this.point(pane, event));
    }
    this.resized = new ResizeObserver(() => this.draw());
    this.resized.observe(screenOf("source"));
  }

  planes() {
    return this.view.kind === "image" ? ["image"] : ["axial", "coronal", "sagittal", "all"];
  }

  setPlane(plane) {
    this.plane = plane;
    return this.draw();
  }

  setWindow(side, window) {
    this.windows[side] = window;
    return this.draw();
  }

  setOver(over, opacity) {
    Object.assign(this, { over, opacity });
    return this.draw();
  }

  move(at) {
    this.at = at;
    return this.draw();
  }

  close() {
    this.resized.disconnect();
    this.closed = true;
    Object.values(this.canvases).forEach((canvas) => canvas.remove());
  }

  tiles() {
    return this.plane === "all" ? ["axial", "coronal", "sagittal"] : [this.plane];
  }

  // The values of a slice, by name; decoded once.
  async slice(side, plane) {
    const n = plane === "image" ? 0 : this.at[PLANES[plane][2]];
    const name = `${side}-${plane}-${String(n + 1).padStart(4, "0")}`;
    if (!this.cache.has(name)) {
      this.cache.set(name, this.decode(name, this.view.panes[side]));
      if (this.cache.size > KEPT) this.cache.delete(this.cache.keys().next().value);
    }
    return this.cache.get(name);
  }

  async decode(name, about) {
    const answer = await fetch(`/jobs/${this.job}/slices/${name}.png`);
    if (!answer.ok) return null;
    const plain = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
    const bitmap = await createImageBitmap(await answer.blob(), plain);
    const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    const bytes = context.getImageData(0, 0, bitmap.width, bitmap.height).data;
    const values = new Float32Array(bitmap.width * bitmap.height);
    for (let i = 0; i < values.length; i += 1) {
      values[i] = about.low + about.step * (256 * bytes[4 * i] + bytes[4 * i + 1]);
    }
    return { values, width: bitmap.width, height: bitmap.height };
  }

  async draw() {
    const turn = (this.turn = (this.turn ?? 0) + 1);
    const sides = { source: ["source"], translation: ["translation"], blend: ["source", this.over] };
    const found = {};
    for (const side of new Set(Object.values(sides).flat())) {
      for (const plane of this.tiles()) found[side + plane] = await this.slice(side, plane);
    }
    if (turn !== this.turn || this.closed) return;
    for (const pane of PANES) this.drawPane(pane, sides[pane], found);
    this.tell(found);
  }

  tell(found) {
    const values = {};
    const plane = this.tiles()[0];
    const column = this.column(plane);
    for (const side of ["source", "translation", this.over]) {
      const slice = found[side + plane];
      if (slice) values[side] = slice.values[column[1] * slice.width + column[0]];
    }
    const { affine } = this.view.grid;
    this.moved({ at: this.at, mm: affine ? toMm(affine, this.at) : null, values });
  }

  // Column and row of the crosshair in a plane.
  column(plane) {
    if (plane === "image") return this.at;
    const [across, down] = PLANES[plane];
    return [across, down].map((axis) => this.view.grid.shape[axis] - 1 - this.at[axis]);
  }

  drawPane(pane, sides, found) {
    const canvas = this.canvases[pane];
    const ratio = window.devicePixelRatio;
    canvas.width = Math.max(1, Math.round(canvas.clientWidth * ratio));
    canvas.height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    const context = canvas.getContext("2d");
    this.places = {};
    const tiles = this.tiles();
    const columns = tiles.length > 1 ? 2 : 1;
    const [width, height] = [canvas.width / columns, canvas.height / columns];
    tiles.forEach((plane, n) => {
      const slice = found[sides[0] + plane];
      if (!slice) return;
      const place = this.fit(plane, slice, (n % 2) * width, Math.floor(n / 2) * height, width, height);
      this.places[plane] = place;
      sides.forEach((side, k) => {
        const upper = found[side + plane];
        context.globalAlpha = k ? this.opacity : 1;
        if (upper) context.drawImage(this.picture(side, upper), place.x, place.y, place.w, place.h);
      });
      context.globalAlpha = 1;
      this.mark(context, plane, place, ratio);
    });
  }

  fit(plane, slice, left, top, width, height) {
    const { spacing } = this.view.grid;
    const [across, down] = plane === "image" ? [0, 1] : PLANES[plane];
    const aspect = spacing[across] && spacing[down] ? spacing[down] / spacing[across] : 1;
    const zoom = Math.min(width / slice.width, height / (slice.height * aspect));
    const [w, h] = [slice.width * zoom, slice.height * aspect * zoom];
    return { x: left + (width - w) / 2, y: top + (height - h) / 2, w, h, columns: slice.width, rows: slice.height };
  }

  // A slice in grey, or a map from black through red to yellow.
  picture(side, slice) {
    const map = side !== "source" && side !== "translation";
    const window = map ? [0, MAP_WHITE] : this.windows[side];
    const canvas = new OffscreenCanvas(slice.width, slice.height);
    const context = canvas.getContext("2d");
    const image = context.createImageData(slice.width, slice.height);
    for (let i = 0; i < slice.values.length; i += 1) {
      const level = grey(slice.values[i], window);
      image.data[4 * i] = map ? Math.min(255, 2 * level) : level;
      image.data[4 * i + 1] = map ? Math.max(0, 2 * level - 255) : level;
      image.data[4 * i + 2] = map ? 0 : level;
      image.data[4 * i + 3] = 255;
    }
    context.putImageData(image, 0, 0);
    return canvas;
  }

  mark(context, plane, place, ratio) {
    const [column, row] = this.column(plane);
    const x = place.x + ((column + 0.5) * place.w) / place.columns;
    const y = place.y + ((row + 0.5) * place.h) / place.rows;
    context.strokeStyle = "#3d9bffb0";
    context.lineWidth = ratio;
    context.beginPath();
    context.moveTo(place.x, y);
    context.lineTo(place.x + place.w, y);
    context.moveTo(x, place.y);
    context.lineTo(x, place.y + place.h);
    context.stroke();
    const letters = this.view.grid.letters?.[plane];
    if (!letters) return;
    context.font = `600 ${15 * ratio}px sans-serif`;
    context.fillStyle = "#ffffff";
    context.textBaseline = "middle";
    const [left, right, top, bottom] = letters;
    const pad = 4 * ratio;
    context.textAlign = "left";
    context.fillText(left, place.x + pad, place.y + place.h / 2 - 12 * ratio);
    context.textAlign = "right";
    context.fillText(right, place.x + place.w - pad, place.y + place.h / 2 - 12 * ratio);
    context.textAlign = "center";
    context.fillText(top, place.x + place.w / 2 + 14 * ratio, place.y + 3 * pad);
    context.fillText(bottom, place.x + place.w / 2 + 14 * ratio, place.y + place.h - 7 * pad);
  }

  point(pane, event) {
    const box = this.canvases[pane].getBoundingClientRect();
    const ratio = this.canvases[pane].width / box.width;
    const [x, y] = [(event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio];
    for (const [plane, place] of Object.entries(this.places ?? {})) {
      const column = Math.floor(((x - place.x) / place.w) * place.columns);
      const row = Math.floor(((y - place.y) / place.h) * place.rows);
      if (column < 0 || row < 0 || column >= place.columns || row >= place.rows) continue;
      const at = [...this.at];
      const [across, down] = plane === "image" ? [0, 1] : PLANES[plane];
      const { shape } = this.view.grid;
      at[across] = plane === "image" ? column : shape[across] - 1 - column;
      at[down] = plane === "image" ? row : shape[down] - 1 - row;
      this.move(at);
    }
  }

  picturesOf(pane) {
    return this.canvases[pane];
  }
}

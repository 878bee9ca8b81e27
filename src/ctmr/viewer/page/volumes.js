// The viewer with WebGL 2: NiiVue, one for each pane, linked by the position in mm.

import { MAP_WHITE, PANES, screenOf, toMm, toVoxel } from "/display.js";

const FILES = { source: ["source"], translation: ["translation"], blend: ["source", "translation"] };

export class VolumeViewer {
  static async open(job, view, moved) {
    const { Niivue, SHOW_RENDER } = await import("/niivue.js");
    const viewer = new VolumeViewer();
    Object.assign(viewer, { job, view, moved, panes: {}, windows: {}, over: "translation", opacity: 0.5 });
    viewer.at = view.grid.shape.map((n) => Math.floor(n / 2));
    const load = (name) => fetch(`/jobs/${job}/results/${name}`).then((answer) => answer.arrayBuffer());
    const packed = view.files.volume.endsWith(".gz") ? ".nii.gz" : ".nii";
    viewer.contents = { source: await load("source-volume"), translation: await load("volume") };
    viewer.names = { source: "source.nii", translation: `translation${packed}` };
    for (const pane of PANES) {
      const canvas = document.createElement("canvas");
      screenOf(pane).prepend(canvas);
      const made = new Niivue({
        isRadiologicalConvention: true, sagittalNoseLeft: true, backColor: [0, 0, 0, 1], show3Dcrosshair: true,
        crosshairColor: [0.24, 0.6, 1, 0.7], crosshairWidth: 0.7, crosshairWidthUnit: "percent",
        dragAndDropEnabled: false, isNearestInterpolation: true, multiplanarShowRender: SHOW_RENDER.NEVER,
        multiplanarPadPixels: 28, logLevel: "error", fontColor: [1, 1, 1, 1], showAllOrientationMarkers: true,
        fontMinPx: 18,
      });
      await made.attachToCanvas(canvas);
      viewer.panes[pane] = made;
      for (const side of FILES[pane]) await viewer.add(made, side);
      made.onLocationChange = (place) => viewer.follow(pane, place);
      made.onAzimuthElevationChange = (azimuth, elevation) => viewer.turn(pane, azimuth, elevation);
    }
    return viewer;
  }

  async add(made, side) {
    await made.loadFromArrayBuffer(this.contents[side].slice(0), this.names[side]);
  }

  planes() {
    return ["axial", "coronal", "sagittal", "all", "3-D"];
  }

  setPlane(plane) {
    this.plane = plane;
    for (const made of Object.values(this.panes)) {
      const { sliceTypeAxial, sliceTypeCoronal, sliceTypeSagittal, sliceTypeMultiplanar, sliceTypeRender } = made;
      const types = { axial: sliceTypeAxial, coronal: sliceTypeCoronal, sagittal: sliceTypeSagittal };
      made.setSliceType({ ...types, all: sliceTypeMultiplanar, "3-D": sliceTypeRender }[plane]);
    }
  }

  setWindow(side, window) {
    this.windows[side] = window;
    for (const pane of PANES) {
      const n = FILES[pane].indexOf(side);
      const volume = n < 0 || (n && this.over !== side) ? null : this.panes[pane].volumes[n];
      if (!volume) continue;
      [volume.cal_min, volume.cal_max] = window;
      this.panes[pane].updateGLVolume();
    }
  }

  async setOver(over, opacity) {
    const made = this.panes.blend;
    this.opacity = opacity;
    if (over !== this.over) {
      this.over = over;
      if (!this.contents[over]) {
        const answer = await fetch(`/jobs/${this.job}/results/${over}`);
        this.contents[over] = await answer.arrayBuffer();
        this.names[over] = `${over}.nii.gz`;
      }
      if (made.volumes[1]) made.removeVolume(made.volumes[1]);
      await this.add(made, over);
      const volume = made.volumes[1];
      const map = over !== "translation";
      volume.colormap = map ? "hot" : "gray";
      [volume.cal_min, volume.cal_max] = map ? [0, MAP_WHITE] : this.windows.translation;
    }
    made.volumes[1].opacity = opacity;
    made.updateGLVolume();
    this.panes.source.createOnLocationChange(); // tells the value of what lies over it
  }

  move(at) {
    this.at = at;
    this.place(toMm(this.view.grid.affine, at), null);
    this.panes.source.createOnLocationChange();
  }

  place(mm, but) {
    for (const [pane, made] of Object.entries(this.panes)) {
      if (pane === but) continue;
      made.scene.crosshairPos = made.mm2frac(mm);
      made.drawScene();
    }
  }

  follow(pane, place) {
    if (this.busy) return;
    this.busy = true;
    const mm = [...place.mm].slice(0, 3);
    this.place(mm, pane);
    this.at = toVoxel(this.view.grid.affine, mm, this.view.grid.shape);
    const values = {};
    for (const each of PANES) {
      this.panes[each].volumes.forEach((volume, n) => {
        const side = n ? this.over : FILES[each][0];
        const voxel = volume.mm2vox(mm);
        values[side] = volume.getValue(...voxel, volume.frame4D);
      });
    }
    this.moved({ at: this.at, mm, values });
    this.busy = false;
  }

  turn(pane, azimuth, elevation) {
    if (this.busy) return;
    this.busy = true;
    for (const [name, made] of Object.entries(this.panes)) {
      if (name !== pane) made.setRenderAzimuthElevation(azimuth, elevation);
    }
    this.busy = false;
  }

  picturesOf(pane) {
    this.panes[pane].drawScene();
    return this.panes[pane].canvas;
  }

  close() {
    for (const made of Object.values(this.panes)) {
      made.gl.getExtension("WEBGL_lose_context")?.loseContext();
      made.canvas.remove();
      made.cleanup?.();
    }
  }
}

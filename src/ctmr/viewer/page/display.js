// What both viewers share: windows, planes, positions; and the panes that they draw into.

export const PLANES = { axial: [0, 1, 2], coronal: [0, 2, 1], sagittal: [1, 2, 0] };
export const PRESETS = { // of CT, in HU: black and white
  brain: [0, 80],
  subdural: [-25, 175],
  bone: [-500, 1500],
  wide: [-1024, 3071],
};
export const PANES = ["source", "translation", "blend"];
export const MAP_WHITE = 0.25; // share of the range, as in the maps that the command writes

export const screenOf = (pane) => document.querySelector(`#pane-${pane} .screen`);

export function middle(grid) {
  return grid.shape.map((n) => Math.floor(n / 2));
}

export function toMm(affine, at) {
  return [0, 1, 2].map((row) => affine[row].slice(0, 3).reduce((sum, v, k) => sum + v * at[k], affine[row][3]));
}

export function toVoxel(affine, mm, shape) { // the inverse, by Cramer's rule
  const m = affine.slice(0, 3).map((row) => row.slice(0, 3));
  const d = mm.map((v, k) => v - affine[k][3]);
  const det = (a) => a[0][0] * (a[1][1] * a[2][2] - a[1][2] * a[2][1])
    - a[0][1] * (a[1][0] * a[2][2] - a[1][2] * a[2][0])
    + a[0][2] * (a[1][0] * a[2][1] - a[1][1] * a[2][0]);
  return [0, 1, 2].map((k) => {
    const changed = m.map((row, r) => row.map((v, c) => (c === k ? d[r] : v)));
    return Math.min(shape[k] - 1, Math.max(0, Math.round(det(changed) / det(m))));
  });
}

export function shown(value, about) {
  if (value === undefined || value === null || Number.isNaN(value)) return "-";
  const digits = about.hu ? 0 : Math.abs(about.range[1] - about.range[0]) > 20 ? 1 : 3;
  return `${value.toFixed(digits)} ${about.unit}`;
}

// Grey level 0 to 255 of a value.
export function grey(value, [low, high]) {
  return Math.max(0, Math.min(255, Math.round((255 * (value - low)) / (high - low))));
}

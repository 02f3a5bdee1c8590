// What a move makes of a state, and what is shown there: pure functions, the same as in Python.
// tests/panels/web/cases.json, which Python writes and both languages read, holds them together.

// Math.round differs from Python's round; this is the same in both
const nearest = x => Math.floor(x + 0.5);

// without rounding errors: 0.47, not 0.47000000000000003 (Python: f"{x:.12g}")
const clean = x => Number(x.toPrecision(12));

export const lastStep = ({min, max, step}) => nearest((max - min) / step);

export const stepOf = (value, slider) =>
  Math.max(0, Math.min(lastStep(slider), nearest((value - slider.min) / slider.step)));

export const valueAt = (i, {min, max, step}) => Math.min(max, clean(min + i * step));

export const snap = (value, slider) => valueAt(stepOf(value, slider), slider);

// The table of study/weight_cuts.py: cuts at all steps of both sliders, and the bins of each layer.
const unpackWeights = (data, view) => {
  const {threshold, sparsity} = data.controls;
  const steps = [lastStep(threshold) + 1, lastStep(sparsity) + 1];
  const rows = steps.map(n => Math.ceil((n - 1) / data.every) + 1);
  const layers = data.layers.length, bins = data.edges.length - 1;
  // a copy, because a message's bytes may begin anywhere
  const bytes = view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength);
  let at = 0;
  const take = (Kind, n) => {
    const part = new Kind(bytes, at, n);
    at += part.byteLength;
    return part;
  };
  const thresholds = take(Float64Array, steps[1]);
  const all = {threshold: take(Float64Array, steps[0]), sparsity: take(Float64Array, steps[1])};
  const kept = {threshold: take(Uint32Array, rows[0] * layers), sparsity: take(Uint32Array, rows[1] * layers)};
  const counts = data.layers.map(() => Array.from(take(Uint32Array, bins)));
  const sum = values => values.reduce((a, b) => a + b, 0);
  const together = data.edges.slice(1).map((_, i) => sum(counts.map(c => c[i])));
  return {thresholds, all, kept, counts, together, weights: sum(data.total)};
};

// The kept weights of each layer. With many layers the table has not every step: between two rows
// the number is estimated, until the kernel's exact one comes.
const keptAt = (i, last, kept, {layers, every}) => {
  const n = layers.length, row = Math.floor(i / every), from = row * every;
  const share = (i - from) / (Math.min(from + every, last) - from || 1);
  return layers.map((_, layer) => {
    const here = kept[row * n + layer];
    return share ? nearest(here + share * (kept[(row + 1) * n + layer] - here)) : here;
  });
};

const weightsResult = (state, data) => {
  const by = state.by, slider = data.controls[by], i = stepOf(state[by], slider);
  return {
    threshold: by === 'threshold' ? state.threshold : data.table.thresholds[i],
    sparsity: 1 - data.table.all[by][i] / data.table.weights,
    accuracy: null,
    kept: keptAt(i, lastStep(slider), data.table.kept[by], data),
  };
};

const LINKED = {threshold: 'sparsity', sparsity: 'threshold'};

const weightsReduce = (state, {name, value}, data) => {
  const moved = {...state, [name]: value};
  if (!LINKED[name]) return moved;
  moved.by = name;
  const other = LINKED[name], {min, max} = data.controls[other];
  moved[other] = Math.min(max, Math.max(min, weightsResult(moved, data)[other]));
  return moved;
};

// What the browser answers itself, by kind of panel. For a panel that needs the network a move only
// sets its control, and the kernel answers.
const KINDS = {weights: {unpack: unpackWeights, reduce: weightsReduce, result: weightsResult}};

export const unpack = (kind, data, view) =>
  KINDS[kind] ? {...data, table: KINDS[kind].unpack(data, view)} : data;

export const reduce = (kind, state, move, data) =>
  KINDS[kind] ? KINDS[kind].reduce(state, move, data) : {...state, [move.name]: move.value};

// The kernel's answer if it is the answer to this state, else the browser's own.
export const result = (kind, state, shown, data) =>
  shown.n === state.n || !KINDS[kind] ? shown.result : KINDS[kind].result(state, data);

// The panel of `panel_weights`: two linked sliders, a histogram, a bar for each layer.
import {format} from 'd3-format';
import {control, line, make} from './dom.js';
import {histogram} from './histogram.js';
import {layers} from './layers.js';
import {snap} from './state.js';

const whole = format(','), sum = values => values.reduce((a, b) => a + b, 0);
// with as many digits as it needs: a value below 1 does not read as 1
const belowOne = value => value.toFixed([3, 4, 5].find(d => Number(value.toFixed(d)) < 1) ?? 9);

const facts = ({kept, sparsity, accuracy}, {waiting}, {total, numbers}) => {
  const all = sum(total), left = sum(kept);
  const parts = [[whole(left)], ` of ${whole(all)} weights stay · sparsity `, [belowOne(sparsity)]];
  if (numbers) parts.push(` (${((all - left) / numbers).toFixed(3)} of all ${whole(numbers)} numbers)`);
  if (accuracy !== null) parts.push(' · accuracy ', [`${Math.round(100 * accuracy)}%`]);
  if (waiting) parts.push(' · measuring…');
  return parts;
};

export const weights = (root, store, data) => {
  const controls = make(root, 'div', {class: 'pv-controls'});
  const shows = {};
  for (const name of ['threshold', 'sparsity']) shows[name] = control(controls, name, data, store);
  const row = make(controls, 'div', {class: 'pv-row'});
  for (const name of ['layer', 'absolute', 'log']) shows[name] = control(row, name, data, store);

  const say = line(root, {class: 'pv-facts'});
  const pictures = make(root, 'div', {class: 'pv-pictures'});
  const slider = data.controls.threshold;
  const bars = histogram(make(pictures, 'div', {class: 'pv-picture'}), store, value => store.move('threshold', snap(value, slider)));
  const showLayers = layers(make(pictures, 'div', {class: 'pv-picture'}), data.layers, data.total);
  make(root, 'p', {class: 'pv-hint'}, 'The threshold can be dragged in the histogram, too.');
  if (data.left_out) make(root, 'p', {class: 'pv-hint'}, `Left out: ${data.left_out}.`);

  return ({state, shown, result}) => {
    for (const name of Object.keys(shows)) shows[name](state[name]);
    const layer = data.layers.indexOf(state.layer);
    bars.bins(data.edges, layer < 0 ? data.table.together : data.table.counts[layer], state.absolute, state.log);
    bars.threshold(result.threshold);
    showLayers(result.kept);
    const isOf = shown.n === state.n;
    say(facts(result, {waiting: shown.waiting || !isOf && shown.result.accuracy !== null}, data));
    if (isOf) bars.name(shown.sentence);
  };
};

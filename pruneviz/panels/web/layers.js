// One bar for each layer: blue for what is kept, orange and hatched for what is removed.
import {format} from 'd3-format';
import {hatch, KEPT, picture} from './axes.js';
import {make} from './dom.js';

const WIDTH = 640, ROW = 24, RIGHT = WIDTH - 170;
const SCROLLED = 16; // rows; more can be scrolled to
const whole = format(',');
const shortened = name => name.length <= 20 ? name : `…${name.slice(-19)}`;

// Return the function that shows how many weights each layer keeps.
export const layers = (parent, names, totals) => {
  const left = Math.max(62, ...names.map(n => 12 + 7 * shortened(n || '(model)').length));
  const isLong = names.length > SCROLLED;
  const label = 'kept of each layer';
  const box = make(parent, 'div', isLong ? {class: 'pv-scrolled', tabindex: 0, role: 'group', 'aria-label': label} : {});
  const svg = picture(box, WIDTH, ROW * names.length + 6, label);
  const {paint} = hatch(svg);
  const rows = names.map((name, i) => {
    const y = 4 + i * ROW, shown = name || '(model)';
    const row = svg.append('g');
    const [kept, removed] = [KEPT, paint].map(fill =>
      row.append('rect').attr('y', y).attr('height', ROW - 7).attr('fill', fill));
    kept.attr('x', left);
    const title = row.append('text').attr('x', left - 8).attr('y', y + 13).attr('text-anchor', 'end').text(shortened(shown));
    if (shortened(shown) !== shown) title.append('title').text(shown);
    const count = row.append('text').attr('x', RIGHT + 8).attr('y', y + 13);
    return {kept, removed, count};
  });
  let last = [];
  return counts => {
    rows.forEach(({kept, removed, count}, i) => {
      if (counts[i] === last[i]) return;
      const share = totals[i] ? counts[i] / totals[i] : 1; // a layer may be empty
      const cut = left + (RIGHT - left) * share;
      kept.attr('width', (cut - left).toFixed(2));
      removed.attr('x', cut.toFixed(2)).attr('width', (RIGHT - cut).toFixed(2));
      count.text(`${whole(counts[i])} of ${whole(totals[i])} kept`);
    });
    last = counts;
  };
};

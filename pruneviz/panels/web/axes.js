// Frame, ticks and names of axes; the hatch that marks what is removed, besides its colour.
import {axisBottom, axisLeft} from 'd3-axis';
import {select} from 'd3-selection';

export const KEPT = '#0072B2'; // Okabe & Ito's blue and vermilion, as in plots/style.py
export const PRUNED = '#D55E00';
let pictures = 0;

// Return a picture of so many units; the page scales it.
export const picture = (parent, width, height, label) => {
  const svg = select(parent).append('svg')
    .attr('viewBox', `0 0 ${width} ${height}`)
    .attr('role', 'img')
    .attr('aria-label', label);
  return svg;
};

// Return the paint of what is removed, for one picture.
export const hatch = svg => {
  const id = `pv-hatch-${++pictures}`;
  const pattern = svg.append('defs').append('pattern')
    .attr('id', id).attr('width', 5).attr('height', 5)
    .attr('patternUnits', 'userSpaceOnUse').attr('patternTransform', 'rotate(45)');
  pattern.append('rect').attr('width', 5).attr('height', 5).attr('fill', PRUNED);
  pattern.append('path').attr('d', 'M0 0V5').attr('stroke', 'white').attr('stroke-width', 1.6).attr('stroke-opacity', 0.7);
  return {paint: `url(#${id})`, id};
};

// Return the axes' functions: `x(scale, name)`, `y(scale, name)` draw one anew.
export const axes = (svg, {left, right, top, bottom}) => {
  const across = svg.append('g').attr('class', 'pv-axis').attr('transform', `translate(0 ${bottom})`);
  const up = svg.append('g').attr('class', 'pv-axis').attr('transform', `translate(${left} 0)`);
  const below = svg.append('text').attr('x', (left + right) / 2).attr('y', bottom + 34).attr('text-anchor', 'middle');
  const beside = svg.append('text').attr('text-anchor', 'middle')
    .attr('transform', `translate(13 ${(top + bottom) / 2}) rotate(-90)`);
  return {
    x: (scale, name, ticks = 6) => {
      across.call(axisBottom(scale).ticks(ticks).tickSizeOuter(0));
      below.text(name);
    },
    y: (scale, name, ticks, format) => {
      up.call(axisLeft(scale).tickValues(ticks).tickFormat(format).tickSizeOuter(0));
      beside.text(name);
    },
  };
};

export const legend = (svg, x, y, paint) => {
  for (const [dx, fill, word] of [[0, KEPT, 'kept'], [66, paint, 'pruned']]) {
    svg.append('rect').attr('x', x + dx).attr('y', y).attr('width', 14).attr('height', 12).attr('fill', fill);
    svg.append('text').attr('x', x + dx + 20).attr('y', y + 10.5).text(word);
  }
};

// A histogram that is counted once: a threshold only moves the borders of what is drawn as pruned.
import {max} from 'd3-array';
import {format} from 'd3-format';
import {scaleLinear, scaleLog} from 'd3-scale';
import {area, curveStepAfter} from 'd3-shape';
import {axes, hatch, KEPT, legend, picture} from './axes.js';
import {pointer} from './dom.js';

const WIDTH = 640, HEIGHT = 240;
const BOX = {left: 62, right: WIDTH - 10, top: 14, bottom: HEIGHT - 42};
const LOW = 0.5; // a logarithmic scale begins below 1, so that a bin with one weight is visible
const short = format('.2~s'), whole = format(',');
const written = count => count < 10_000 ? whole(count) : short(count).replace('G', 'B');

// Powers of ten up to a count; every second or third if there are many.
export const powers = top => {
  const last = Math.floor(Math.log10(Math.max(top, 1))), step = Math.floor(last / 4) + 1;
  return Array.from({length: Math.floor(last / step) + 1}, (_, i) => 10 ** (i * step));
};

// The bins below 0 are added to those above.
const folded = (edges, counts) => {
  const half = counts.length / 2;
  return [edges.slice(half), counts.slice(half).map((c, i) => c + counts[half - 1 - i])];
};

// Return {bins, threshold, name}: what draws other bins, moves the borders, and says what is shown.
export const histogram = (parent, store, onThreshold) => {
  const svg = picture(parent, WIDTH, HEIGHT, 'histogram of the weights').attr('data-touch', 'drag');
  const {paint, id} = hatch(svg);
  const clips = ['kept', 'pruned'].map(n => svg.select('defs').append('clipPath').attr('id', `${id}-${n}`));
  const sides = [clips[0].append('rect'), clips[0].append('rect')], middle = clips[1].append('rect');
  [...sides, middle].forEach(r => r.attr('y', BOX.top).attr('height', BOX.bottom - BOX.top));
  const bars = [KEPT, paint].map((fill, i) =>
    svg.append('g').attr('clip-path', `url(#${id}-${['kept', 'pruned'][i]})`).append('path').attr('fill', fill));
  const lines = [-1, 1].map(() => {
    const line = svg.append('g').attr('class', 'pv-threshold');
    line.append('path').attr('d', `M0 ${BOX.top - 6}V${BOX.bottom}`);
    line.append('circle').attr('r', 5).attr('cy', BOX.top - 6);
    return line;
  });
  const frame = axes(svg, BOX);
  legend(svg, BOX.right - 136, HEIGHT - 18, paint);
  const x = scaleLinear([BOX.left, BOX.right]);
  let isLast = null, isOneSided = false;

  pointer(svg.node(), store, (px, py, press) => {
    const isInside = px >= BOX.left && px <= BOX.right && py >= 0 && py <= BOX.bottom;
    if (press && !isInside) return false;
    onThreshold(Math.abs(x.invert(px)));
    return true;
  });

  const clip = (rect, from, to) => {
    const a = Math.max(BOX.left, from), b = Math.min(BOX.right, to);
    rect.attr('x', a.toFixed(2)).attr('width', Math.max(0, b - a).toFixed(2));
  };
  return {
    bins: (edges, counts, isAbsolute, isLog) => {
      const key = [edges, counts, isAbsolute, isLog];
      if (isLast?.every((v, i) => v === key[i])) return;
      isLast = key;
      isOneSided = isAbsolute;
      const [ends, heights] = isAbsolute ? folded(edges, counts) : [edges, counts];
      const top = max(heights) || 1;
      x.domain([ends[0], ends.at(-1)]);
      const y = isLog
        ? scaleLog([LOW, Math.max(top, 1)], [BOX.bottom, BOX.top])
        : scaleLinear([0, top], [BOX.bottom, BOX.top]);
      const outline = area().curve(curveStepAfter)
        .x((_, i) => x(ends[i])).y0(BOX.bottom).y1(c => y(isLog ? Math.max(c, LOW) : c));
      bars.forEach(bar => bar.attr('d', outline([...heights, heights.at(-1)])));
      frame.x(x, isAbsolute ? '|weight|' : 'weight');
      frame.y(y, 'number of weights', isLog ? powers(top) : y.ticks(4), written);
    },
    threshold: value => {
      const right = x(value), left = isOneSided ? BOX.left : x(-value);
      clip(sides[0], BOX.left, left);
      clip(sides[1], right, BOX.right + 1);
      clip(middle, left, right);
      lines.forEach((line, i) => {
        const at = i ? right : left;
        const isHidden = at < BOX.left - 0.1 || at > BOX.right + 0.1 || (!i && (isOneSided || value === 0));
        line.attr('transform', `translate(${at.toFixed(2)} 0)`).attr('display', isHidden ? 'none' : null);
      });
    },
    name: text => {
      if (svg.attr('aria-label') !== text) svg.attr('aria-label', text);
    },
  };
};

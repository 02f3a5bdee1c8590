// One state, two writers: the browser and the kernel (kit/view.py). The newer one wins, on both sides.
import {reduce, result} from './state.js';

const TELL = 100; // ms between two messages of a drag; the picture does not wait for them
const newer = (a, b) => a.n > b.n || (a.n === b.n && a.who > b.who); // 'kernel' > 'browser'

// `wait` and `now` are the page's clock; a test has its own.
export const makeStore = (model, kind, data, {frame, wait, forget, now}) => {
  let state = model.get('state'), shown = model.get('shown');
  let due = null, sent = -TELL, drag = 0, drags = 0;
  let isFresh = false, isStale = false;
  const heard = [];

  // The first move of a frame is drawn at once, further ones together in the next frame.
  const draw = () => {
    isFresh = true;
    isStale = false;
    heard.forEach(f => f({state, shown, result: result(kind, state, shown, data)}));
    frame(() => {
      isFresh = false;
      if (isStale) draw();
    });
  };
  const tell = () => {
    if (isFresh) isStale = true;
    else draw();
  };
  const cancel = () => {
    forget(due);
    due = null;
  };
  const flush = () => {
    cancel();
    sent = now();
    model.set('state', state);
    model.save_changes();
  };
  const send = () => {
    const left = sent + TELL - now();
    if (left <= 0) flush();
    else due ??= wait(flush, left);
  };
  const onState = () => {
    const other = model.get('state');
    if (newer(other, state)) {
      cancel();
      state = other;
      shown = model.get('shown'); // both came in one message
      tell();
    } else if (newer(state, other)) send();
  };
  const onShown = () => {
    shown = model.get('shown');
    tell();
  };
  model.on('change:state', onState);
  model.on('change:shown', onShown);

  return {
    listen: f => heard.push(f),
    start: draw,
    get: () => state,
    // the pointer is down: what moves until `release` is one move
    grab: () => { drag = ++drags; },
    release: () => { drag = 0; },
    move: (name, value) => {
      if (state[name] === value) return;
      const moved = reduce(kind, state, {name, value}, data);
      state = {...moved, moved: name, drag, n: state.n + 1, who: 'browser'};
      tell();
      send();
    },
    // a button; a message may overtake the state, so it brings it with it
    ask: (what, more = {}) => {
      cancel();
      model.send({do: what, ...more, state});
    },
    close: () => {
      cancel();
      model.off('change:state', onState);
      model.off('change:shown', onShown);
      heard.length = 0;
    },
  };
};

// Two writers of one state, on a clock and with a model of the test's own.
import assert from 'node:assert/strict';
import {test} from 'node:test';
import {makeStore} from '../../../pruneviz/panels/web/store.js';

const world = (state = {a: 0, n: 0, who: 'kernel', drag: 0}) => {
  const traits = {state, shown: {n: 0, result: 'first'}}, listeners = {};
  const w = {time: 0, frames: [], timers: new Map(), sent: [], asked: [], drawn: []};
  const model = {
    get: name => traits[name],
    set: (name, value) => { traits[name] = value; },
    save_changes: () => w.sent.push(traits.state),
    send: message => w.asked.push(message),
    on: (name, f) => { listeners[name] = f; },
    off: name => { delete listeners[name]; },
  };
  let timer = 0;
  w.store = makeStore(model, 'any', {}, {
    frame: f => w.frames.push(f),
    wait: (f, ms) => { w.timers.set(++timer, [f, w.time + ms]); return timer; },
    forget: id => w.timers.delete(id),
    now: () => w.time,
  });
  w.store.listen(now => w.drawn.push(now.state.a));
  w.nextFrame = () => w.frames.splice(0).forEach(f => f());
  w.pass = ms => {
    w.time += ms;
    for (const [id, [f, due]] of [...w.timers]) if (due <= w.time) { w.timers.delete(id); f(); }
  };
  w.kernel = (name, value) => { traits[name] = value; listeners[`change:${name}`]?.(); };
  w.listeners = listeners;
  return w;
};

test('the first move of a frame is drawn at once, further ones together in the next', () => {
  const w = world();
  for (const a of [1, 2, 3]) w.store.move('a', a);
  assert.deepEqual(w.drawn, [1]);
  w.nextFrame();
  assert.deepEqual(w.drawn, [1, 3]);
  w.nextFrame();
  w.store.move('a', 4);
  assert.deepEqual(w.drawn, [1, 3, 4]);
});

test('the kernel hears of the first move, and then every 100 ms of the last', () => {
  const w = world();
  for (let a = 1; a <= 25; a++) {
    w.store.move('a', a);
    w.pass(10);
  }
  w.pass(100);
  assert.deepEqual(w.sent.map(s => s.a), [1, 10, 20, 25]);
  assert.deepEqual(w.sent.map(s => s.n), [1, 10, 20, 25]);
});

test('a value that is already there is no move', () => {
  const w = world();
  w.store.move('a', 0);
  assert.deepEqual([w.sent, w.drawn], [[], []]);
});

test('the newer state wins, of equal ones the kernel’s, and who has an older one is told', () => {
  const w = world();
  w.store.move('a', 1);
  w.pass(100);
  w.kernel('state', {a: 7, n: 1, who: 'kernel', drag: 0});
  assert.equal(w.store.get().a, 7);
  w.store.move('a', 2);
  w.pass(100);
  w.kernel('state', {a: 8, n: 1, who: 'kernel', drag: 0}); // late
  assert.equal(w.store.get().a, 2);
  w.pass(100);
  assert.deepEqual(w.sent.at(-1), {a: 2, n: 2, who: 'browser', drag: 0, moved: 'a'});
});

test('a button brings the state with it, which is not sent again', () => {
  const w = world();
  w.store.move('a', 1);
  w.store.move('a', 2);
  w.store.ask('save', {name: 'x'});
  w.pass(500);
  assert.deepEqual(w.asked, [{do: 'save', name: 'x', state: w.store.get()}]);
  assert.deepEqual(w.sent.map(s => s.a), [1]);
});

test('what moves while the pointer is down is one move', () => {
  const w = world(), drags = [];
  const move = a => { w.store.move('a', a); drags.push(w.store.get().drag); };
  w.store.grab();
  move(1);
  move(2);
  w.store.release();
  move(3);
  w.store.grab();
  move(4);
  assert.deepEqual(drags, [1, 1, 0, 2]);
});

test('an answer is drawn, and a closed store hears nothing', () => {
  const w = world(), seen = [];
  w.store.listen(now => seen.push(now.result));
  w.kernel('shown', {n: 0, result: 'second'});
  assert.deepEqual(seen, ['second']);
  w.store.close();
  assert.deepEqual(w.listeners, {});
});

// The browser computes what Python computes: cases.json is written by ../test_weights_cases.py.
import assert from 'node:assert/strict';
import {readFileSync} from 'node:fs';
import {test} from 'node:test';
import {lastStep, reduce, result, snap, stepOf, unpack, valueAt} from '../../../pruneviz/panels/web/state.js';

const cases = JSON.parse(readFileSync(new URL('cases.json', import.meta.url), 'utf8'));
const bytes = text => {
  const buffer = Buffer.from(text, 'base64');
  return new DataView(buffer.buffer, buffer.byteOffset, buffer.byteLength);
};

for (const {name, data, table, start, moves} of cases) {
  test(`every state and result is Python's: ${name}`, () => {
    const known = unpack('weights', data, bytes(table));
    let state = start;
    for (const move of moves) {
      state = reduce('weights', state, move, known);
      assert.deepEqual(state, move.state);
      const found = result('weights', state, {n: -1}, known);
      assert.deepEqual({...found, accuracy: null}, move.result);
    }
  });
}

test('between two rows of a coarse table the numbers of single layers are estimated', () => {
  const {data, table, start} = cases.find(c => c.data.every > 1);
  const known = unpack('weights', data, bytes(table));
  const at = sparsity => result('weights', {...start, by: 'sparsity', sparsity}, {n: -1}, known);
  const [below, between, above] = [0.5, 0.501, 0.5 + data.every * 0.001].map(at);
  between.kept.forEach((k, i) => assert.ok(k <= below.kept[i] && k >= above.kept[i]));
});

test('the kernel’s answer to this very state is shown, and no other', () => {
  const {data, table, start} = cases[0], known = unpack('weights', data, bytes(table));
  const exact = {threshold: 9};
  assert.equal(result('weights', {...start, n: 3}, {n: 3, result: exact}, known), exact);
  assert.notEqual(result('weights', {...start, n: 4}, {n: 3, result: exact}, known), exact);
});

test('a panel that the browser cannot answer sets its control and waits', () => {
  assert.deepEqual(reduce('strip', {sparsity: 0, n: 1}, {name: 'sparsity', value: 0.5}, {}), {sparsity: 0.5, n: 1});
  assert.equal(result('strip', {n: 2}, {n: 1, result: 'old'}, {}), 'old');
});

test('a slider has clean steps and no step beyond its ends', () => {
  const slider = {min: 0, max: 0.999, step: 0.001};
  assert.equal(lastStep(slider), 999);
  assert.deepEqual([470, 29, 999].map(i => valueAt(i, slider)), [0.47, 0.029, 0.999]);
  assert.deepEqual([-1, 7, 0.4704].map(v => stepOf(v, slider)), [0, 999, 470]);
  for (let i = 0; i <= 999; i++) assert.equal(stepOf(valueAt(i, slider), slider), i);
  assert.equal(snap(0.47049, slider), 0.47);
});

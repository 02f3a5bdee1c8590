// Controls made of what the browser has: ranges, fields, lists, boxes, buttons, each with a label.
// Text is always set as text, so a layer called <img> shows its name. Elements come from the page in
// which the panel stands, which may be a shadow root: nothing here asks for `document`.
import {lastStep, stepOf, valueAt} from './state.js';

let made = 0;

export const make = (parent, tag, attributes = {}, text = '') => {
  const child = parent.ownerDocument.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) child.setAttribute(name, value);
  child.textContent = text;
  parent.append(child);
  return child;
};

// Return a row's label and the id that its control needs.
const labelled = (row, text) => {
  const id = `pv-control-${++made}`;
  make(row, 'label', {for: id}, text);
  return id;
};

const setText = (element, text) => {
  if (element.textContent !== text) element.textContent = text;
};

const slider = (parent, name, facts, store) => {
  const row = make(parent, 'div', {class: 'pv-row'});
  const id = labelled(row, facts.label);
  const {min, max, digits} = facts;
  const field = make(row, 'input', {type: 'number', id, step: 'any', min, max});
  // the range counts steps, so that it rounds no value
  const range = make(row, 'input', {type: 'range', min: 0, max: lastStep(facts), step: 1, 'aria-label': facts.label});
  let isTyped = false; // a half-typed number is not replaced
  range.addEventListener('input', () => store.move(name, valueAt(Number(range.value), facts)));
  range.addEventListener('pointerdown', store.grab);
  // a mouse that is let go beside the range tells it nothing but `change`
  for (const end of ['change', 'pointerup', 'pointercancel']) range.addEventListener(end, store.release);
  field.addEventListener('input', () => { isTyped = true; });
  field.addEventListener('keydown', event => {
    const by = {ArrowUp: 1, ArrowDown: -1}[event.key];
    if (!by) return;
    event.preventDefault(); // the browser's own step would be 1
    isTyped = false;
    store.move(name, valueAt(Math.max(0, stepOf(store.get()[name], facts) + by), facts));
  });
  field.addEventListener('change', () => {
    isTyped = false;
    const value = Number(field.value);
    if (field.value === '' || Number.isNaN(value)) show(store.get()[name]);
    else store.move(name, Math.min(max, Math.max(min, value)));
  });
  const show = value => {
    const text = value.toFixed(digits), at = String(stepOf(value, facts));
    if (range.value !== at) range.value = at;
    range.setAttribute('aria-valuetext', text);
    if (!isTyped) field.value = String(Number(text));
  };
  return show;
};

const choice = (parent, name, {label, options}, store) => {
  const row = make(parent, 'span', {class: 'pv-choice'});
  const select = make(row, 'select', {id: labelled(row, label)});
  options.forEach(([text], i) => make(select, 'option', {value: i}, text));
  select.addEventListener('change', () => store.move(name, options[Number(select.value)][1]));
  return value => { select.value = String(options.findIndex(o => o[1] === value)); };
};

const check = (parent, name, {label}, store) => {
  const row = make(parent, 'label', {class: 'pv-check'});
  const box = make(row, 'input', {type: 'checkbox'});
  row.append(label);
  box.addEventListener('change', () => store.move(name, box.checked));
  return value => { box.checked = value; };
};

const MADE = {slider, choice, check};

// Make a control; return the function that shows its value.
export const control = (parent, name, data, store) =>
  MADE[data.controls[name].kind](parent, name, data.controls[name], store);

export const button = (parent, text, title, onClick) => {
  const element = make(parent, 'button', {type: 'button', title}, text);
  element.addEventListener('click', onClick);
  return element;
};

// A line that changes while the user moves something: text, and numbers in bold.
export const line = (parent, attributes) => {
  const element = make(parent, 'p', attributes);
  return parts => {
    while (element.childNodes.length > parts.length) element.lastChild.remove();
    parts.forEach((part, i) => {
      const old = element.childNodes[i], tag = Array.isArray(part) ? 'b' : 'span';
      const text = Array.isArray(part) ? part[0] : part;
      if (old?.localName === tag) setText(old, text);
      else {
        const fresh = make(element, tag, {}, text);
        if (old) old.replaceWith(fresh);
      }
    });
  };
};

// What a screen reader is told when something has changed: one sentence, once it stands still.
export const live = parent => {
  const element = make(parent, 'div', {class: 'pv-said', 'aria-live': 'polite'});
  return text => setText(element, text);
};

// The pointer in a picture: `at(x, y, press)` gets its place in the picture's own units; what it
// returns says whether a press there begins a drag. One call a frame is enough; the store sees to it.
export const pointer = (svg, store, at) => {
  const place = event => new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  let isDown = false;
  svg.addEventListener('pointerdown', event => {
    if (event.button !== 0) return;
    const {x, y} = place(event);
    store.grab();
    isDown = at(x, y, true);
    if (!isDown) return store.release();
    event.preventDefault();
    svg.setPointerCapture(event.pointerId);
  });
  svg.addEventListener('pointermove', event => {
    if (!isDown) return;
    const {x, y} = place(event);
    at(x, y, false);
  });
  for (const end of ['pointerup', 'pointercancel', 'lostpointercapture']) {
    svg.addEventListener(end, () => {
      isDown = false;
      store.release();
    });
  }
};


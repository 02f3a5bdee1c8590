// Under every panel: undo, redo, saved plans, and the code that does the same.
import {button, make} from './dom.js';

export const toolbar = (parent, store) => {
  const bar = make(parent, 'div', {class: 'pv-toolbar'});
  const row = make(bar, 'div', {class: 'pv-row'});
  const undo = button(row, 'undo', 'take the last move back', () => store.ask('undo'));
  const redo = button(row, 'redo', 'do it again', () => store.ask('redo'));
  const code = button(row, 'code', 'the code that does the same', () => {
    code.setAttribute('aria-expanded', String(code.getAttribute('aria-expanded') !== 'true'));
    show(last);
  });
  code.setAttribute('aria-expanded', 'false');

  const name = make(row, 'input', {type: 'text', placeholder: 'a name', 'aria-label': 'save as'});
  const save = () => {
    store.ask('save', {name: name.value});
    name.value = '';
  };
  name.addEventListener('keydown', event => event.key === 'Enter' && name.value && save());
  button(row, 'save', 'keep where the controls stand, to come back', save);
  const plans = make(row, 'select', {'aria-label': 'go to'});
  plans.addEventListener('change', () => plans.value && store.ask('load', {name: options[plans.selectedIndex - 1]}));

  let last = null, options = null, text = null;
  const showCode = shown => {
    const isOpen = code.getAttribute('aria-expanded') === 'true';
    if (isOpen && !text) {
      const box = make(bar, 'div', {class: 'pv-code'});
      text = make(box, 'textarea', {readonly: '', spellcheck: 'false', wrap: 'off', 'aria-label': 'code that does the same'});
      const copy = button(box, 'copy the code', '', async () => {
        text.select();
        await text.ownerDocument.defaultView.navigator.clipboard?.writeText(text.value);
        copy.textContent = 'copied';
      });
    }
    if (!isOpen) {
      text?.parentElement.remove();
      text = null;
    } else if (text.value !== shown.code) {
      text.value = shown.code;
      text.rows = shown.code.split('\n').length;
    }
  };
  const showPlans = ({saved, plan}) => {
    if (JSON.stringify(saved) !== JSON.stringify(options)) {
      options = saved;
      plans.replaceChildren();
      for (const option of ['saved', ...saved]) make(plans, 'option', {}, option);
    }
    plans.selectedIndex = saved.indexOf(plan) + 1;
  };
  const show = shown => {
    last = shown;
    // a button that is disabled while it has the focus would lose it: the other one takes it
    const focus = row.getRootNode().activeElement;
    const moves = [[undo, !shown.undo], [redo, !shown.redo]];
    moves.sort((a, b) => a[1] - b[1]).forEach(([step, isOff]) => { step.disabled = isOff; });
    if ((focus === undo || focus === redo) && focus.disabled) (focus === undo ? redo : undo).focus();
    showPlans(shown);
    showCode(shown);
  };
  return show;
};

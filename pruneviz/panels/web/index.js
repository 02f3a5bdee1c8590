// Which panel is drawn where. One bundle holds them all; nothing is done when it is loaded.
import css from './style.css';
import {live, make} from './dom.js';
import {unpack} from './state.js';
import {makeStore} from './store.js';
import {toolbar} from './toolbar.js';
import {weights} from './weights.js';

const PANELS = {weights};

const render = ({model, el}) => {
  const kind = model.get('kind'), view = el.ownerDocument.defaultView;
  const data = unpack(kind, model.get('data'), model.get('table'));
  const clock = {
    frame: f => view.requestAnimationFrame(f),
    wait: (f, ms) => view.setTimeout(f, ms),
    forget: id => view.clearTimeout(id),
    now: () => view.performance.now(),
  };
  const store = makeStore(model, kind, data, clock);

  make(el, 'style', {}, css);
  const root = make(el, 'div', {class: 'pv-web', role: 'group', 'aria-label': `${kind} panel`});
  // JupyterLab uses letters and arrows as shortcuts (dd deletes a cell); in a panel they are the
  // panel's. Ctrl+S and the like go on to JupyterLab.
  root.addEventListener('keydown', event => {
    if (!(event.ctrlKey || event.metaKey || event.altKey)) event.stopPropagation();
  });
  const draw = PANELS[kind](root, store, data);
  const alert = make(root, 'p', {role: 'alert', class: 'pv-alert'});
  const bar = toolbar(root, store);
  const say = live(root);
  store.listen(now => {
    const {error, waiting, sentence, n} = now.shown;
    root.classList.toggle('pv-failed', Boolean(error));
    alert.hidden = !error;
    if (alert.textContent !== error) alert.textContent = error;
    draw(now);
    bar(now.shown);
    if (n === now.state.n && !waiting && !error) say(sentence);
  });
  store.start();

  // once it stands in the page: the still picture that stood for it goes
  const watch = new view.ResizeObserver(() => {
    root.closest('.pv-panel')?.classList.add('pv-drawn');
    watch.disconnect();
    model.send({do: 'drawn'});
  });
  watch.observe(root);
  return () => {
    watch.disconnect();
    store.close();
  };
};

export default {render};

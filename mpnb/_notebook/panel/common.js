// What the parts of the panel share. Python puts it before each of them, since a widget is one module.

function make(tag, className, parent, attributes = {}) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  parent?.append(node);
  return node;
}

const setText = (node, text) => { if (node.textContent !== text) node.textContent = text; };

// Each view has this module anew: a number that it counts would be another view's as well.
const freshId = () => [...crypto.getRandomValues(new Uint32Array(4))].map((n) => n.toString(16)).join("-");

/** A label above a control, whose id is the page's alone. */
function labelled(parent, label, tag, attributes = {}) {
  const id = `mpnb-${freshId()}`;
  const box = make("div", "mpnb-field", parent);
  make("label", "", box, { for: id }).textContent = label;
  return make(tag, "", box, { id, ...attributes });
}

/**
 * Keep keys from the notebook, which deletes, inserts and runs cells by them. Returns what ends that.
 *
 * JupyterLab listens above us, Notebook 7 even before us: it leaves alone what has the focus and this attribute. Saving
 * is the one shortcut that is meant for it.
 */
function keepKeys(el) {
  const KEEP = "data-lm-suppress-shortcuts";
  const saves = (event) => (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "s";
  function first(event) {
    if (!saves(event) || !el.contains(event.target)) return;
    event.target.removeAttribute(KEEP);
    setTimeout(() => event.target.setAttribute(KEEP, "true"));
  }
  el.addEventListener("focusin", (event) => event.target.setAttribute(KEEP, "true"));
  el.addEventListener("keydown", (event) => { if (!saves(event)) event.stopPropagation(); });
  window.addEventListener("keydown", first, true);
  return () => window.removeEventListener("keydown", first, true);
}


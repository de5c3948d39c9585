// The grid: a cell a batch, the numbers above it, the failures below it, and buttons.
//
// `state` holds a byte a batch, `days` four bytes a batch, `info` the rest; this side writes none of them. What a
// person does goes to Python as a message: {type: "cell", index} asks for details, {type: "cancel"} is a button.
// Everything that comes from a server or a user is set by textContent.

const STATES = ["queued", "waiting", "fetching", "writing", "done", "empty", "skipped", "failed", "cancelled"];
const WORDS = {
  queued: "queued", waiting: "waiting", fetching: "fetching", writing: "being written", done: "done",
  empty: "done, no events", skipped: "there already", failed: "failed", cancelled: "cancelled",
};
const PHASES = {
  form: "Not ready", planning: "Planning", login: "Credentials needed", idle: "Ready", starting: "Starting", running: "Exporting", waiting: "Waiting for the quota", cancelling: "Cancelling",
  done: "Done", failed: "Ended", cancelled: "Cancelled", error: "Stopped by an error",
};
const MOVING = new Set(["starting", "running", "waiting", "cancelling"]);
const UNDER_WAY = new Set(["waiting", "fetching", "writing"]);
// Up to so many batches, cells of so many pixels with so many between them.
const SIZES = [[60, 26, 4], [240, 20, 3], [1200, 15, 3], [Infinity, 12, 2]];
const BREATHING = 240; // cells that move are dear where there are many
const REST_MS = 80; // a pointer that only sweeps over cells asks for nothing
const ANSWER_MS = 1500; // a kernel that has not answered by then is busy with a cell
const SPEAK_MS = 5000;
const GONE = "The connection to the kernel is gone. If it was restarted, run the cell again: what was fetched is in the table.";

function make(tag, className, parent, attributes = {}) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  parent?.append(node);
  return node;
}

const setText = (node, text) => { if (node.textContent !== text) node.textContent = text; };
const bytesOf = (value) => value ? new Uint8Array(value.buffer ?? value, value.byteOffset ?? 0, value.byteLength) : new Uint8Array();

function isoDay(number) {
  return new Date(number * 86400000).toISOString().slice(0, 10);
}

function duration(seconds) {
  const s = Math.floor(seconds);
  const two = (n) => String(n).padStart(2, "0");
  return s < 3600 ? `${Math.floor(s / 60)}:${two(s % 60)}` : `${Math.floor(s / 3600)}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
}

// Saving is the one shortcut that nobody means for a control.
const stopKey = (event) => { if (!((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "s")) event.stopPropagation(); };

/**
 * Keep keys from the notebook, which deletes, inserts and runs cells by them. Returns what ends that.
 *
 * The fields are widgets beside this one, below a root that it is put under only after it was made: the first key finds
 * the root, on its way down. A root has the listener once, however often it is added.
 */
function keepKeys(el) {
  const find = (event) => event.target.closest?.(".mpnb-panel")?.addEventListener("keydown", stopKey);
  document.addEventListener("keydown", find, true);
  el.addEventListener("keydown", stopKey);
  return () => document.removeEventListener("keydown", find, true);
}

/** Say something on the control channel, which a kernel reads while a cell runs, too. Not every front end lets us. */
function sendAtOnce(model, content) {
  const kernel = model.widget_manager?.kernel;
  try {
    kernel?.sendControlMessage({
      channel: "control", content, metadata: {}, parent_header: {}, buffers: [],
      header: {
        msg_id: freshId(), msg_type: "mpnb_press", session: kernel.clientId, username: kernel.username,
        date: new Date().toISOString(), version: "5.4",
      },
    });
  } catch { /* it goes the usual way as well */ }
}

const freshId = () => [...crypto.getRandomValues(new Uint32Array(4))].map((n) => n.toString(16)).join("-");

const clock = (epoch) => new Date(epoch * 1000).toLocaleTimeString([], { hour12: false });

/** The cells: rows of them, one tab stop, arrows. `onPoint(index | null, atOnce)` hears where pointer and focus are. */
function cellGrid(parent, onPoint) {
  const box = make("div", "mpnb-scroll", parent);
  const grid = make("div", "mpnb-grid", box, { role: "grid", "aria-label": "Batches" });
  let cells = [], shown = new Uint8Array(), days = new DataView(new ArrayBuffer(0)), columns = 1, stop = 0, size = 0, gap = 0;

  const dates = (i) => {
    if (i * 4 + 4 > days.byteLength) return "";
    const packed = days.getUint32(i * 4, true), first = packed & 0xffff, count = packed >>> 16;
    return count === 1 ? isoDay(first) : `${isoDay(first)} – ${isoDay(first + count - 1)}`;
  };
  const label = (i) => `${dates(i)}: ${WORDS[STATES[shown[i]]] ?? "?"}`;

  function paintCell(i) {
    cells[i].className = `mpnb-cell mpnb-${STATES[shown[i]]}`;
    cells[i].setAttribute("aria-label", label(i));
  }

  function layOut() {
    const width = grid.clientWidth;
    if (!width || !cells.length) return;
    const fit = Math.max(1, Math.floor((width + gap) / (size + gap)));
    if (fit === columns && grid.childElementCount === Math.ceil(cells.length / fit)) return;
    columns = fit;
    const focused = grid.contains(document.activeElement) ? document.activeElement : null;
    const rows = [];
    for (let at = 0; at < cells.length; at += columns) {
      const row = make("div", "mpnb-row", null, { role: "row", "aria-rowindex": rows.length + 1 });
      row.append(...cells.slice(at, at + columns));
      rows.push(row);
    }
    cells.forEach((cell, i) => cell.setAttribute("aria-colindex", (i % columns) + 1));
    grid.replaceChildren(...rows);
    grid.setAttribute("aria-rowcount", rows.length);
    grid.setAttribute("aria-colcount", columns);
    focused?.focus({ preventScroll: true });
  }

  function update(state, newDays) {
    const daysChanged = newDays.byteLength !== days.byteLength || newDays.some((byte, i) => byte !== days.getUint8(i));
    if (daysChanged) days = new DataView(newDays.slice().buffer);
    if (state.length !== cells.length) {
      [, size, gap] = SIZES.find(([most]) => state.length <= most);
      grid.style.setProperty("--mpnb-size", `${size}px`);
      grid.style.setProperty("--mpnb-gap", `${gap}px`);
      grid.classList.toggle("mpnb-roomy", state.length <= BREATHING);
      cells = Array.from(state, (_, i) => cells[i] ?? make("div", "", null, { role: "gridcell", tabindex: -1 }));
      cells.forEach((cell, i) => { cell.dataset.i = i; });
      stop = Math.min(stop, Math.max(0, cells.length - 1));
      cells[stop]?.setAttribute("tabindex", 0);
      shown = state.slice();
      cells.forEach((_, i) => paintCell(i));
      columns = 0;
      layOut();
      return null;
    }
    const changed = new Set();
    const before = shown;
    shown = state.slice();
    for (let i = 0; i < shown.length; i++) {
      if (daysChanged || shown[i] !== before[i]) { paintCell(i); changed.add(i); }
    }
    return changed;
  }

  function moveTo(i) {
    const to = Math.max(0, Math.min(cells.length - 1, i));
    cells[stop]?.setAttribute("tabindex", -1);
    stop = to;
    cells[stop].setAttribute("tabindex", 0);
    cells[stop].focus();
  }

  grid.addEventListener("keydown", (event) => {
    if (event.altKey || event.metaKey || event.shiftKey) return;
    const at = Number(event.target.dataset.i);
    const rowStart = at - (at % columns);
    const to = {
      ArrowLeft: at - 1, ArrowRight: at + 1,
      ArrowUp: at - columns < 0 ? at : at - columns,
      ArrowDown: at + columns >= cells.length ? at : at + columns,
      Home: event.ctrlKey ? 0 : rowStart,
      End: event.ctrlKey ? cells.length - 1 : rowStart + columns - 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    moveTo(to);
  });
  const indexOf = (event) => { const i = event.target.dataset?.i; return i === undefined ? null : Number(i); };
  grid.addEventListener("pointerover", (event) => { const i = indexOf(event); if (i !== null) onPoint(i, false); });
  grid.addEventListener("pointerleave", () => onPoint(grid.contains(document.activeElement) ? stop : null, true));
  grid.addEventListener("focusin", (event) => {
    const i = indexOf(event);
    if (i === null) return;
    if (i !== stop) { cells[stop]?.setAttribute("tabindex", -1); stop = i; cells[i].setAttribute("tabindex", 0); }
    onPoint(i, true);
  });
  grid.addEventListener("focusout", () => onPoint(null, true));
  const observer = new ResizeObserver(layOut);
  observer.observe(box);
  return { grid, box, update, dates, state: (i) => STATES[shown[i]], word: (i) => WORDS[STATES[shown[i]]], stop: () => observer.disconnect() };
}

/** Buttons that stay the same elements, so that focus stays where it is. */
function buttonRow(parent, onPress) {
  const row = make("div", "mpnb-actions", parent, { role: "group", "aria-label": "Actions" });
  const known = new Map();
  return (actions) => {
    for (const { id, label, enabled, look } of actions) {
      let button = known.get(id);
      if (!button) {
        button = make("button", "", row, { type: "button" });
        // Not the attribute "disabled": the button would lose the focus at the moment of its click.
        button.addEventListener("click", () => { if (button.getAttribute("aria-disabled") !== "true") onPress(id, button); });
        known.set(id, button);
      }
      button.className = `mpnb-button mpnb-${look ?? "plain"}`;
      button.setAttribute("aria-disabled", String(!enabled));
      setText(button, label);
    }
    for (const [id, button] of known) if (!actions.some((action) => action.id === id)) { button.remove(); known.delete(id); }
  };
}

function paintFacts(list, facts) {
  while (list.childElementCount > facts.length) list.lastElementChild.remove();
  facts.forEach(([name, value], i) => {
    const item = list.children[i] ?? make("div", "mpnb-fact", list);
    if (!item.firstChild) { make("dt", "", item); make("dd", "", item); }
    setText(item.children[0], name);
    setText(item.children[1], value);
  });
}

function render({ model, el }) {
  const root = make("section", "mpnb", el, { "aria-label": "Mixpanel export" });
  const head = make("div", "mpnb-head", root);
  const words = make("div", "mpnb-words", head);
  const phase = make("span", "mpnb-phase", words);
  const title = make("span", "mpnb-title", words);
  const paintButtons = buttonRow(head, press);
  const bar = make("div", "mpnb-bar", root, { role: "progressbar", "aria-label": "Batches done", "aria-valuemin": 0 });
  const barDone = make("div", "mpnb-bar-done", bar), barFailed = make("div", "mpnb-bar-failed", bar);
  const facts = make("dl", "mpnb-facts", root);
  const notes = make("div", "mpnb-notes", root);
  const cells = cellGrid(root, point);
  const legend = make("ul", "mpnb-legend", root, { "aria-label": "States" });
  const detail = make("div", "mpnb-detail", root);
  const failures = make("div", "mpnb-failures", root);
  const code = make("div", "mpnb-code", root);
  const live = make("div", "mpnb-live", root, { role: "status", "aria-live": "polite" });
  const passKeys = keepKeys(el);
  const timers = { rest: 0, tick: 0, answer: 0 };
  let pointed = null, answer = null, asked = false, infoAt = performance.now(), spoken = "", spokenAt = -Infinity, busy = "", pressed = "";

  // ipywidgets marks the views of a kernel that is gone with this class, those of a file that was reopened as well.
  const gone = () => el.closest(".jupyter-widgets-disconnected") !== null;
  const moving = () => MOVING.has(model.get("info").phase) && !gone();

  function ask() {
    if (pointed === null || gone()) return;
    asked = true;
    model.send({ type: "cell", index: pointed });
  }

  function press(id, button) {
    if (id === "copy") return copy(button);
    if (gone()) return;
    const message = { type: id, press: freshId() };
    // What else is pressed must not overtake what was typed before.
    if (id === "cancel") sendAtOnce(model, { ...message, grid: model.get("key") });
    model.send(message);
    busy = "";
    pressed = message.press;
    clearTimeout(timers.answer);
    timers.answer = setTimeout(() => {
      busy = id === "cancel"
        ? "Cancel asked; the kernel is busy, press ■ (it interrupts the cell that runs)"
        : "The kernel is busy with a cell: this comes next.";
      paintNotes();
    }, ANSWER_MS);
  }

  async function copy(button) {
    const text = model.get("info").code ?? "";
    let said = "Copied";
    try { await navigator.clipboard.writeText(text); } catch { said = "Copy it from below"; }
    code.replaceChildren();
    make("pre", "", code, { tabindex: 0, "aria-label": "The same as code" }).textContent = text;
    live.textContent = said;
    button.dataset.said = said;
    setTimeout(() => { delete button.dataset.said; }, 2000);
  }

  function point(i, atOnce) {
    if (i === pointed) return;
    pointed = i;
    answer = null;
    paintDetail();
    clearTimeout(timers.rest);
    asked = false;
    if (i !== null) timers.rest = setTimeout(ask, atOnce ? 0 : REST_MS);
  }

  function paintDetail() {
    detail.replaceChildren();
    if (pointed === null || !cells.dates(pointed)) {
      make("span", "mpnb-hint", detail).textContent = "Point at a batch, or reach it with Tab and the arrows, to see more of it.";
      return;
    }
    make("span", `mpnb-swatch mpnb-${cells.state(pointed)}`, detail, { "aria-hidden": "true" });
    make("strong", "", detail).textContent = cells.dates(pointed);
    make("span", "", detail).textContent = cells.word(pointed) + (answer?.until ? ` until ${clock(answer.until)}` : "");
    for (const [name, value] of answer?.facts ?? []) {
      const fact = make("span", "mpnb-pair", detail);
      make("span", "mpnb-name", fact).textContent = name;
      fact.append(" ", value);
    }
    if (answer?.message) make("div", "mpnb-message", detail).textContent = answer.message;
  }

  function paintLegend(state) {
    const counts = new Array(STATES.length).fill(0);
    for (const byte of state) counts[byte]++;
    const present = STATES.map((name, i) => [name, counts[i]]).filter(([, count]) => count);
    while (legend.childElementCount > present.length) legend.lastElementChild.remove();
    present.forEach(([name, count], i) => {
      const item = legend.children[i] ?? make("li", "", legend);
      if (!item.firstChild) { make("span", "", item, { "aria-hidden": "true" }); make("span", "", item); }
      item.children[0].className = `mpnb-swatch mpnb-${name}`;
      setText(item.children[1], `${count.toLocaleString("en-US")} ${WORDS[name]}`);
    });
  }

  function paintNotes() {
    const texts = gone() ? [GONE] : [...(model.get("info").notes ?? []), ...(busy ? [busy] : [])];
    notes.replaceChildren(...texts.map((text) => { const note = make("p", ""); note.textContent = text; return note; }));
  }

  function paintClock() {
    const info = model.get("info");
    const seconds = info.elapsed + (moving() ? (performance.now() - infoAt) / 1000 : 0);
    const all = (info.facts ?? []).map(([name, value]) => [name, name === "elapsed" ? duration(seconds) : value]);
    if (info.until && moving()) all.push(["waiting until", clock(info.until)]);
    paintFacts(facts, all);
  }

  // What moves without a message: the clock, and what is known of a batch that is under way.
  function tick() {
    if (!moving()) return;
    paintClock();
    if (pointed !== null && !asked && UNDER_WAY.has(cells.state(pointed))) ask();
  }

  function paintFailures(list) {
    failures.replaceChildren(...list.map(({ kind, count, hint, message }) => {
      const item = make("div", "mpnb-failure");
      make("span", `mpnb-swatch mpnb-${kind === "cancelled" ? "cancelled" : "failed"}`, item, { "aria-hidden": "true" });
      const body = make("div", "", item);
      const line = make("div", "", body);
      make("strong", "", line).textContent = `${count.toLocaleString("en-US")} × ${kind}`;
      line.append(" ", hint);
      if (message && kind !== "cancelled") make("div", "mpnb-message", body).textContent = message;
      return item;
    }));
  }

  function speak(info) {
    const now = performance.now();
    const text = !info.total || info.phase === "idle" ? "" : `${PHASES[info.phase] ?? info.phase}. ${info.done} of ${info.total} batches`
      + (info.failed ? `, ${info.failed} not fetched.` : ".");
    const over = !MOVING.has(info.phase);
    if (text === spoken || (now - spokenAt < SPEAK_MS && !over)) return;
    spoken = text;
    spokenAt = now;
    live.textContent = text;
  }

  function onInfo() {
    const info = model.get("info");
    infoAt = performance.now();
    root.classList.toggle("mpnb-empty-grid", !info.total);
    root.classList.toggle("mpnb-gone", gone());
    setText(phase, gone() ? "Disconnected" : (PHASES[info.phase] ?? "") + (info.phase === "failed" ? `, ${info.failed.toLocaleString("en-US")} failed` : ""));
    setText(title, info.title ?? "");
    paintButtons((info.actions ?? []).map((action) => ({ ...action, enabled: action.enabled && (!gone() || action.id === "copy") })));
    const total = Math.max(1, info.total ?? 0), done = info.done ?? 0, failed = info.failed ?? 0;
    bar.setAttribute("aria-valuemax", info.total ?? 0);
    bar.setAttribute("aria-valuenow", done + failed);
    bar.setAttribute("aria-valuetext", `${done} of ${info.total ?? 0} batches` + (failed ? `, ${failed} not fetched` : ""));
    barDone.style.width = `${(100 * done) / total}%`;
    barFailed.style.width = `${(100 * failed) / total}%`;
    paintClock();
    paintNotes();
    paintFailures(info.failures ?? []);
    if (code.firstChild && code.firstChild.textContent !== info.code) code.replaceChildren();
    speak(info);
  }

  function onState() {
    const state = bytesOf(model.get("state"));
    const changed = cells.update(state, bytesOf(model.get("days")));
    paintLegend(state);
    if (pointed !== null && pointed >= state.length) point(null, true);
    if (changed === null || changed.has(pointed)) {
      paintDetail();
      ask();
    }
  }

  function onMessage(message) {
    if (message.type === "heard" && message.press === pressed) {
      pressed = busy = "";
      clearTimeout(timers.answer);
      paintNotes();
    }
    if (message.type !== "cell" || message.index !== pointed) return;
    answer = message;
    asked = false;
    paintDetail();
  }

  // After the views' own listeners, which set the class that gone() looks at.
  const onLive = () => setTimeout(onInfo);

  const heard = [["change:info", onInfo], ["change:state", onState], ["change:days", onState], ["msg:custom", onMessage], ["comm_live_update", onLive]];
  for (const [name, callback] of heard) model.on(name, callback);
  onState();
  onInfo();
  paintDetail();
  // A page that was loaded anew has what was sent last, which may be a while ago.
  infoAt -= Math.max(0, Date.now() - 1000 * (model.get("info").at ?? Infinity));
  timers.tick = setInterval(tick, 1000);
  return () => {
    for (const [name, callback] of heard) model.off(name, callback);
    clearInterval(timers.tick);
    clearTimeout(timers.rest);
    clearTimeout(timers.answer);
    cells.stop();
    passKeys();
  };
}

export default { render };

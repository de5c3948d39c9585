// The grid: a cell a batch, the numbers and the failures above it, and buttons.
//
// `state` holds a byte a batch (four bits of its state, four of its share of the largest batch), `days` four bytes a
// batch (its days, or its page), `info` the rest; this side writes none of them. What a person does goes to Python as a
// message: {type: "cell", index} asks for details, {type: "cancel"} is a button, {type: "retry_batch", index} is one
// below the grid.
// Everything that comes from a server or a user is set by textContent.

const STATES = ["queued", "waiting", "fetching", "writing", "done", "empty", "skipped", "failed", "cancelled"];
const WORDS = {
  queued: "queued", waiting: "waiting", fetching: "fetching", writing: "being written", done: "done",
  skipped: "there already", failed: "failed", cancelled: "cancelled",
};
const PHASES = {
  form: "Not ready", planning: "Planning", login: "Credentials needed", idle: "Ready", starting: "Starting", running: "Exporting", waiting: "Waiting for the quota", cancelling: "Cancelling",
  done: "Done", failed: "Ended", cancelled: "Cancelled", error: "Stopped by an error",
};
const EVENTS = { records: "events", batch: "batch", batches: "batches" };
const AGAIN = 0x80000000; // of a page that is read once more
const MOVING = new Set(["starting", "running", "waiting", "cancelling"]);
const UNDER_WAY = new Set(["waiting", "fetching", "writing"]);
// Up to so many batches, cells of so many pixels with so many between them.
const SIZES = [[60, 26, 4], [240, 20, 3], [1200, 15, 3], [Infinity, 12, 2]];
const BREATHING = 240; // cells that move are dear where there are many
const REST_MS = 80; // a pointer that only sweeps over cells asks for nothing
const ANSWER_MS = 1500; // a kernel that has not answered by then is busy with a cell
const SPEAK_MS = 5000;
const MONTH_PX = 62; // beside each row, as in grid.css
const MONTH = new Intl.DateTimeFormat("en", { month: "short", year: "numeric", timeZone: "UTC" });
const DAYS_SHOWN = 6; // of each kind of failure, at first
const GONE = "The connection to the kernel is gone. If it was restarted, run the cell again: what was fetched is in the table.";

const bytesOf = (value) => value ? new Uint8Array(value.buffer ?? value, value.byteOffset ?? 0, value.byteLength) : new Uint8Array();

function isoDay(number) {
  return new Date(number * 86400000).toISOString().slice(0, 10);
}

const termsOf = (model) => model.get("info").terms ?? EVENTS;
const capital = (text) => text[0].toUpperCase() + text.slice(1);

function duration(seconds) {
  const s = Math.floor(seconds);
  const two = (n) => String(n).padStart(2, "0");
  return s < 3600 ? `${Math.floor(s / 60)}:${two(s % 60)}` : `${Math.floor(s / 3600)}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
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

const wordOf = (state, terms) => (state === "empty" ? `done, no ${terms.records}` : WORDS[state] ?? "?");
const clock = (epoch) => new Date(epoch * 1000).toLocaleTimeString([], { hour12: false });

/**
 * The cells: rows of them, one tab stop, arrows. `terms()` says how they are called. `onPoint(index | null, atOnce)` hears where pointer and focus are,
 * `onPick(index | null)` which cell was clicked, or chosen by Enter, and that Escape was pressed.
 */
function cellGrid(parent, terms, onPoint, onPick) {
  const box = make("div", "mpnb-scroll", parent);
  const grid = make("div", "mpnb-grid", box, { role: "grid", "aria-label": "Batches" });
  let cells = [], shown = new Uint8Array(), days = new DataView(new ArrayBuffer(0)), columns = 1, stop = 0, size = 0, gap = 0;

  const hasFocus = () => grid.contains(grid.getRootNode().activeElement); // the page's, or that of a shadow tree
  const ofPages = () => terms().batch !== EVENTS.batch;
  const pageOf = (i) => days.getUint32(i * 4, true) & ~AGAIN;
  const isAgain = (i) => Boolean(days.getUint32(i * 4, true) & AGAIN);
  const dates = (i) => {
    if (i * 4 + 4 > days.byteLength) return "";
    if (ofPages()) return `page ${pageOf(i).toLocaleString("en-US")}${isAgain(i) ? " again" : ""}`;
    const packed = days.getUint32(i * 4, true), first = packed & 0xffff, count = packed >>> 16;
    return count === 1 ? isoDay(first) : `${isoDay(first)} – ${isoDay(first + count - 1)}`;
  };
  const stateOf = (i) => STATES[shown[i] & 15];
  const word = (i) => wordOf(stateOf(i), terms());
  const label = (i) => `${dates(i)}: ${word(i)}`;
  const monthOf = (i) => isoDay(days.getUint32(i * 4, true) & 0xffff).slice(0, 7);

  function paintCell(i) {
    cells[i].className = `mpnb-cell mpnb-${stateOf(i)}`;
    cells[i].setAttribute("aria-label", label(i));
    // How many events it has, next to the others: a bar below the glyph.
    const volume = shown[i] >> 4;
    if (volume) cells[i].style.setProperty("--mpnb-volume", volume / 15);
    else cells[i].style.removeProperty("--mpnb-volume");
  }

  /** Name the months, or the pages, with which rows begin, and mark the cells in which months do. */
  function paintMonths() {
    grid.setAttribute("aria-label", capital(terms().batches));
    if (!columns || cells.length * 4 > days.byteLength) return;
    const pages = ofPages();
    let above = "";
    [...grid.children].forEach((row, n) => {
      const month = pages ? dates(n * columns) : monthOf(n * columns);
      const header = row.firstChild;
      const text = pages ? month : month === above ? "" : MONTH.format(new Date(`${month}-01T00:00:00Z`));
      setText(header, text);
      header.role = text ? "rowheader" : null;
      header.ariaHidden = text ? null : "true";
      above = month;
    });
    const begins = (i) => (pages ? isAgain(i) : monthOf(i) !== monthOf(i - 1));
    cells.forEach((cell, i) => cell.toggleAttribute("data-first", i % columns > 0 && begins(i)));
  }

  function layOut() {
    if (!cells.length) return grid.replaceChildren();
    const width = grid.clientWidth - MONTH_PX;
    if (width <= 0) return;
    const fit = Math.max(1, Math.floor((width + gap) / (size + gap)));
    if (fit === columns && grid.childElementCount === Math.ceil(cells.length / fit)) return;
    columns = fit;
    const focused = hasFocus() ? grid.getRootNode().activeElement : null;
    const rows = [];
    for (let at = 0; at < cells.length; at += columns) {
      const row = make("div", "mpnb-row", null, { role: "row", "aria-rowindex": rows.length + 1 });
      make("div", "mpnb-month", row);
      row.append(...cells.slice(at, at + columns));
      rows.push(row);
    }
    cells.forEach((cell, i) => cell.setAttribute("aria-colindex", (i % columns) + 2));
    grid.replaceChildren(...rows);
    grid.setAttribute("aria-rowcount", rows.length);
    grid.setAttribute("aria-colcount", columns + 1);
    paintMonths();
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
      paintMonths();
      return null;
    }
    const changed = new Set();
    const before = shown;
    shown = state.slice();
    for (let i = 0; i < shown.length; i++) {
      if (daysChanged || shown[i] !== before[i]) { paintCell(i); changed.add(i); }
    }
    if (daysChanged) paintMonths();
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
    if (event.key === "Escape") return onPick(null);
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); return onPick(at); }
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
  grid.addEventListener("click", (event) => { const i = indexOf(event); if (i !== null) { onPick(i); moveTo(i); } });
  grid.addEventListener("mousedown", (event) => event.preventDefault()); // the focus comes with the click
  const indexOf = (event) => { const i = event.target.dataset?.i; return i === undefined ? null : Number(i); };
  grid.addEventListener("pointerover", (event) => { const i = indexOf(event); if (i !== null) onPoint(i, false); });
  grid.addEventListener("pointerleave", () => onPoint(hasFocus() ? stop : null, true));
  grid.addEventListener("focusin", (event) => {
    const i = indexOf(event);
    if (i === null) return;
    if (i !== stop) { cells[stop]?.setAttribute("tabindex", -1); stop = i; cells[i].setAttribute("tabindex", 0); }
    onPoint(i, true);
  });
  grid.addEventListener("focusout", () => onPoint(null, true));
  const observer = new ResizeObserver(layOut);
  observer.observe(box);
  return { grid, box, update, dates, moveTo, state: stateOf, word, stop: () => observer.disconnect() };
}

/** Buttons that stay the same elements, so that focus stays where it is; `onLost` hears that it cannot. */
function buttonRow(parent, name, onPress, onLost) {
  const row = make("div", "mpnb-actions", parent, { role: "group", "aria-label": name });
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
    for (const [id, button] of known) {
      if (actions.some((action) => action.id === id)) continue;
      const focused = button.getRootNode().activeElement === button;
      button.remove();
      known.delete(id);
      if (focused) onLost();
    }
    actions.forEach(({ id }, i) => { if (row.children[i] !== known.get(id)) row.insertBefore(known.get(id), row.children[i] ?? null); });
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
  const phase = make("span", "mpnb-phase", words, { tabindex: -1 });
  const title = make("span", "mpnb-title", words);
  // Focus that a button takes along when it goes stays in the panel, and on nothing that Enter would press.
  const paintButtons = buttonRow(head, "Actions", press, () => phase.focus({ preventScroll: true }));
  const bar = make("div", "mpnb-bar", root, { role: "progressbar", "aria-valuemin": 0 });
  const barDone = make("div", "mpnb-bar-done", bar), barFailed = make("div", "mpnb-bar-failed", bar);
  const facts = make("dl", "mpnb-facts", root);
  const notes = make("div", "mpnb-notes", root);
  const failures = make("div", "mpnb-failures", root);
  const terms = () => termsOf(model);
  const cells = cellGrid(root, terms, point, pick);
  const legend = make("ul", "mpnb-legend", root, { "aria-label": "States" });
  const detail = make("div", "mpnb-detail", root), detailText = make("div", "mpnb-detail-text", detail);
  const paintBatchButtons = buttonRow(detail, "Batch", pressBatch, () => cells.moveTo(pointed ?? 0));
  const code = make("div", "mpnb-code", root);
  const live = make("div", "mpnb-live", root, { role: "status", "aria-live": "polite" });
  const passKeys = keepKeys(el);
  const timers = { rest: 0, tick: 0, answer: 0 };
  let pointed = null, picked = null, answer = null, asked = false, infoAt = performance.now(), called = terms().batch, spoken = "", spokenAt = -Infinity, busy = "", pressed = "";

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
    send({ type: id });
  }

  function pressBatch(id, button) {
    if (id === "copy") copy(button, answer?.code ?? "");
    else if (!gone()) send({ type: id, index: pointed });
  }

  function send(content) {
    const message = { ...content, press: freshId() }, id = content.type;
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

  async function copy(button, text = model.get("info").code ?? "") {
    let said = "Copied";
    try { await navigator.clipboard.writeText(text); } catch { said = "Copy it from below"; }
    code.replaceChildren();
    code.dataset.of = text === model.get("info").code ? "all" : "batch";
    make("pre", "", code, { tabindex: 0, "aria-label": "The same as code" }).textContent = text;
    live.textContent = said;
    button.dataset.said = said;
    setTimeout(() => { delete button.dataset.said; }, 2000);
  }

  function point(i, atOnce) {
    // The pointer passes other cells on its way to the buttons of the one that was picked.
    if (picked !== null && (i === null || !atOnce)) i = picked;
    if (i === pointed) return;
    if (picked !== null) return pick(i);
    pointed = i;
    answer = null;
    paintDetail();
    clearTimeout(timers.rest);
    asked = false;
    if (i !== null) timers.rest = setTimeout(ask, atOnce ? 0 : REST_MS);
  }

  /** Keep the details of a cell in sight, with its buttons; `null`, or the same cell once more, lets go of it. */
  function pick(i) {
    const before = picked;
    picked = null;
    if (i !== null && i !== before) {
      point(i, true);
      picked = i;
    }
    for (const cell of root.querySelectorAll(".mpnb-cell[aria-selected]")) cell.removeAttribute("aria-selected");
    if (picked !== null) root.querySelector(`.mpnb-cell[data-i="${picked}"]`)?.setAttribute("aria-selected", "true");
    paintDetail();
  }

  function paintDetail() {
    const detail = detailText;
    detail.replaceChildren();
    if (pointed === null || !cells.dates(pointed)) {
      paintBatchButtons([]);
      make("span", "mpnb-hint", detail).textContent = `Point at a ${terms().batch}, or reach it with Tab and the arrows, to see more of it; a click or Enter keeps it here.`;
      return;
    }
    paintBatchButtons(picked === null ? [] : [
      ...(answer?.retry ? [{ id: "retry_batch", label: "Retry this batch", enabled: !gone() }] : []),
      ...(answer?.code ? [{ id: "copy", label: "Copy as code", enabled: true }] : []),
    ]);
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
    for (const byte of state) counts[byte & 15]++;
    const present = STATES.map((name, i) => [name, counts[i]]).filter(([, count]) => count);
    while (legend.childElementCount > present.length) legend.lastElementChild.remove();
    present.forEach(([name, count], i) => {
      const item = legend.children[i] ?? make("li", "", legend);
      if (!item.firstChild) { make("span", "", item, { "aria-hidden": "true" }); make("span", "", item); }
      item.children[0].className = `mpnb-swatch mpnb-${name}`;
      setText(item.children[1], `${count.toLocaleString("en-US")} ${wordOf(name, terms())}`);
    });
  }

  /** Whether the picture beside this output is none yet: it does not reach a page that was loaded in between. */
  const pending = () => el.closest(".jp-OutputArea-child")?.nextElementSibling?.querySelector(".mpnb-pending") != null;

  function paintNotes() {
    const info = model.get("info");
    const texts = gone() ? [GONE] : [...(info.notes ?? []), ...(busy ? [busy] : []), ...(info.keep && pending() ? [info.keep] : [])];
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
    if (model.get("info").keep) paintNotes();
    if (!moving()) return;
    paintClock();
    if (pointed !== null && !asked && UNDER_WAY.has(cells.state(pointed))) ask();
  }

  // Only where they changed: a button that is made anew would lose the focus.
  let listed = "", shownPhase = "";
  function paintFailures(list) {
    const now = JSON.stringify(list);
    if (now === listed) return;
    listed = now;
    failures.replaceChildren(...list.map(({ kind, count, hint, message, cells: places }) => {
      const item = make("div", "mpnb-failure");
      make("span", `mpnb-swatch mpnb-${kind === "cancelled" ? "cancelled" : "failed"}`, item, { "aria-hidden": "true" });
      const body = make("div", "", item);
      const line = make("div", "", body);
      make("strong", "", line).textContent = `${count.toLocaleString("en-US")} × ${kind}`;
      line.append(" ", hint);
      if (message && kind !== "cancelled") make("div", "mpnb-message", body).textContent = message;
      paintPlaces(make("div", "mpnb-places", body), places ?? [], count);
      return item;
    }));
  }

  /** The days of failed batches, each of which leads to its cell. */
  function paintPlaces(row, places, count) {
    const show = (many) => {
      row.replaceChildren(...places.slice(0, many).map((i) => {
        const day = make("button", "mpnb-day", null, { type: "button" });
        day.textContent = cells.dates(i);
        day.addEventListener("click", () => { if (picked !== i) pick(i); cells.moveTo(i); });
        return day;
      }));
      const rest = count - Math.min(many, places.length);
      if (many < places.length) {
        const more = make("button", "mpnb-day", row, { type: "button" });
        more.textContent = `and ${rest.toLocaleString("en-US")} more`;
        more.addEventListener("click", () => { show(Infinity); row.children[many]?.focus(); });
      } else if (rest > 0) make("span", "mpnb-hint", row).textContent = `and ${rest.toLocaleString("en-US")} more`;
    };
    show(DAYS_SHOWN);
  }

  function speak(info) {
    const now = performance.now();
    const text = !info.total || info.phase === "idle" ? "" : `${PHASES[info.phase] ?? info.phase}. ${info.done} of ${info.total} ${terms().batches}`
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
    bar.setAttribute("aria-label", `${capital(terms().batches)} done`);
    bar.setAttribute("aria-valuemax", info.total ?? 0);
    bar.setAttribute("aria-valuenow", done + failed);
    bar.setAttribute("aria-valuetext", `${done} of ${info.total ?? 0} ${terms().batches}` + (failed ? `, ${failed} not fetched` : ""));
    barDone.style.width = `${(100 * done) / total}%`;
    barFailed.style.width = `${(100 * failed) / total}%`;
    paintClock();
    paintNotes();
    paintFailures(info.failures ?? []);
    if (code.dataset.of === "all" && code.firstChild?.textContent !== info.code) code.replaceChildren();
    if (info.phase !== shownPhase && picked !== null) ask(); // whether it can be retried is another question now
    if (terms().batch !== called) paintDetail();
    called = terms().batch;
    shownPhase = info.phase;
    speak(info);
  }

  function onState() {
    const state = bytesOf(model.get("state"));
    const changed = cells.update(state, bytesOf(model.get("days")));
    paintLegend(state);
    if (pointed !== null && pointed >= state.length) { picked = null; point(null, true); }
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

  // What came together is shown together, and what the words speak of before the words.
  let due = new Set();
  const later = (what) => () => { if (!due.size) queueMicrotask(paintDue); due.add(what); };
  function paintDue() {
    const now = due;
    due = new Set();
    if (now.has("state")) onState();
    if (now.has("info")) onInfo();
  }

  const heard = [["change:info", later("info")], ["change:state", later("state")], ["change:days", later("state")], ["msg:custom", onMessage], ["comm_live_update", onLive]];
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

// The explorer: what can be chosen, and the picture of it, which Python draws.
//
// `lists` has the choices: {events: [[name, count]], properties, measures, values: [[value, count or null]], days: [[day,
// count]], reports: [[id, label]], units}. `answer` has {n, choices, html, code, offer, error, seconds}; n is that of the
// message that it answers. This side writes neither: {type: "choose", n, choices} says what was chosen, {type: "type"}
// asks for columns. Texts of events are set by textContent; `html` is Python's, which escapes them.

const WAIT_MS = 300; // an answer that takes longer has something that turns
const SHOWN_EVENTS = 8;
const OFF = { autocomplete: "off", spellcheck: "false", autocapitalize: "off" };
const STRIP = { width: 600, height: 40 };
// Which controls a report has.
const HAS = {
  lines: ["measure", "by", "unit"], table: ["measure", "by", "unit"], bars: ["by", "unit"], funnel: ["then", "by"],
  retention: ["then", "unit", "by"], flows: [], hours: [],
};

/** A field of text with a list below it: typing narrows it, arrows choose, Enter or a click takes, Escape closes. */
function combobox(parent, label, any, names, onTake) {
  const text = labelled(parent, label, "input", { type: "text", role: "combobox", "aria-expanded": "false", "aria-autocomplete": "list", placeholder: any, ...OFF });
  const list = make("ul", "mpnb-suggestions", text.parentElement, { role: "listbox", id: `mpnb-${freshId()}`, "aria-label": "Suggestions" });
  text.setAttribute("aria-controls", list.id);
  list.hidden = true;
  let found = [], at = -1, value = "";

  function close() {
    list.hidden = true;
    at = -1;
    text.setAttribute("aria-expanded", "false");
    text.removeAttribute("aria-activedescendant");
  }
  function choose(i) {
    at = i;
    [...list.children].forEach((item, n) => item.setAttribute("aria-selected", String(n === i)));
    if (list.children[i]) text.setAttribute("aria-activedescendant", list.children[i].id);
    else text.removeAttribute("aria-activedescendant");
  }
  function take(name) {
    value = text.value = name;
    close();
    onTake(name);
  }
  function open(all) {
    const typed = all ? "" : text.value.trim().toLowerCase();
    const rank = ([name]) => (name.toLowerCase().startsWith(typed) ? 0 : 1);
    found = names().filter(([name]) => name.toLowerCase().includes(typed)).sort((a, b) => rank(a) - rank(b)).slice(0, SHOWN_EVENTS);
    if (!typed) found.unshift(["", 0]);
    list.replaceChildren(...found.map(([name, count], i) => {
      const item = make("li", "", null, { role: "option", id: `${list.id}-${i}`, "aria-selected": "false" });
      make("span", "", item).textContent = name || any;
      if (name) make("span", "mpnb-count", item).textContent = count.toLocaleString("en-US");
      item.addEventListener("pointerdown", (event) => { event.preventDefault(); take(name); });
      return item;
    }));
    list.hidden = !found.length;
    text.setAttribute("aria-expanded", String(!list.hidden));
    choose(-1);
  }
  text.addEventListener("focus", () => { text.select(); open(true); });
  text.addEventListener("click", () => { if (list.hidden) open(true); });
  text.addEventListener("input", () => open(false));
  text.addEventListener("blur", () => { text.value = value; close(); });
  text.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      if (list.hidden) open(true);
      else choose(((event.key === "ArrowDown" ? at + 1 : at - 1) + found.length) % found.length);
    } else if (event.key === "Enter") {
      const exact = found.findIndex(([name]) => name.toLowerCase() === text.value.trim().toLowerCase());
      const i = at >= 0 ? at : exact >= 0 ? exact : found.length === 1 ? 0 : -1;
      if (!list.hidden && i >= 0) take(found[i][0]);
    } else if (event.key === "Escape") { text.value = value; close(); } else return;
    event.preventDefault();
  });
  return { box: text.parentElement, get value() { return value; }, set value(name) { value = name; if (text.getRootNode().activeElement !== text) text.value = name; } };
}

/** A list to choose from. */
function choice(parent, label, onTake) {
  const select = labelled(parent, label, "select");
  select.addEventListener("change", () => onTake());
  let known = "";
  return {
    box: select.parentElement,
    get value() { return select.value; },
    set value(name) { select.value = name; },
    fill(options) {
      const now = JSON.stringify(options);
      if (now === known) return;
      known = now;
      const before = select.value;
      select.replaceChildren(...options.map(([value, text]) => { const o = make("option", "", null, { value }); o.textContent = text; return o; }));
      select.value = before;
    },
  };
}

/** A bar a day, above which a pointer chooses days. The two fields beside it do the same by keyboard. */
function strip(parent, onRange) {
  const NS = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(NS, "svg");
  svg.setAttribute("viewBox", `0 0 ${STRIP.width} ${STRIP.height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  svg.classList.add("mpnb-strip");
  const bars = document.createElementNS(NS, "path");
  const mark = document.createElementNS(NS, "rect");
  mark.setAttribute("height", STRIP.height);
  mark.classList.add("mpnb-strip-mark");
  svg.append(mark, bars);
  parent.append(svg);
  let days = [], from = null;

  const dayAt = (event) => {
    const box = svg.getBoundingClientRect();
    return Math.max(0, Math.min(days.length - 1, Math.floor(((event.clientX - box.left) / box.width) * days.length)));
  };
  const pair = (to) => [Math.min(from, to), Math.max(from, to)];
  function show(first, last) {
    const step = STRIP.width / Math.max(1, days.length);
    mark.setAttribute("x", first * step);
    mark.setAttribute("width", Math.max(0, (last - first + 1) * step));
  }
  svg.addEventListener("pointerdown", (event) => { if (days.length) { from = dayAt(event); svg.setPointerCapture(event.pointerId); show(from, from); event.preventDefault(); } });
  svg.addEventListener("pointermove", (event) => { if (from !== null) show(...pair(dayAt(event))); });
  svg.addEventListener("pointerup", (event) => {
    if (from === null) return;
    const [first, last] = pair(dayAt(event));
    from = null;
    onRange(days[first][0], days[last][0]);
  });
  svg.addEventListener("pointercancel", () => { from = null; });
  return (now, first, last) => {
    days = now;
    const step = STRIP.width / Math.max(1, days.length), most = Math.max(1, ...days.map(([, count]) => count));
    bars.setAttribute("d", days.map(([, count], i) => `M${(i + 0.1) * step} ${STRIP.height}v${(-count / most) * (STRIP.height - 2)}h${step * 0.8}v${(count / most) * (STRIP.height - 2)}z`).join(""));
    const at = (day, otherwise) => { const i = days.findIndex(([each]) => each === day); return i < 0 ? otherwise : i; };
    if (from === null) show(at(first, 0), at(last, days.length - 1));
  };
}

function render({ model, el }) {
  const root = make("div", "mpnb mpnb-explorer", el, { role: "group", "aria-label": "Explorer" });
  const form = make("div", "mpnb-form", root, { role: "group", "aria-label": "What to see" });
  const fields = make("div", "mpnb-choices", form);
  const lists = () => model.get("lists"), answer = () => model.get("answer");
  let n = Math.max(0, answer().n ?? 0), waiting = 0;
  const changed = () => send();

  const report = choice(fields, "Report", () => { show(); send(); });
  const event = combobox(fields, "Event", "any event", () => lists().events ?? [], changed);
  const then = combobox(fields, "Then", "any event", () => lists().events ?? [], changed);
  const measure = choice(fields, "Measure", changed);
  const by = choice(fields, "Split by", changed);
  const unit = choice(fields, "Each", changed);
  const where = choice(fields, "Only where", () => { value.value = ""; send(); });
  const value = choice(fields, "is", changed);
  const dates = make("div", "mpnb-range-of-days", form);
  const paintStrip = strip(dates, (a, b) => { first.value = a; last.value = b; send(); });
  const first = labelled(dates, "From", "input", { type: "date" });
  const last = labelled(dates, "To", "input", { type: "date" });
  for (const input of [first, last]) input.addEventListener("change", changed);
  const controls = { report, event, then, measure, by, unit, where, value };

  const error = make("div", "mpnb-error", root, { role: "alert" });
  const figure = make("div", "mpnb-figure", root, { tabindex: "0", role: "group", "aria-label": "Picture: arrow keys read its values" });
  const readout = make("div", "mpnb-readout", root, { role: "status" });
  const row = make("div", "mpnb-actions", root);
  const copy = make("button", "mpnb-button", row, { type: "button" });
  copy.textContent = "Copy as code";
  const offer = make("button", "mpnb-button", row, { type: "button" });
  const code = make("div", "mpnb-code", root);

  function choices() {
    const values = Object.fromEntries(Object.entries(controls).map(([name, control]) => [name, control.value ?? ""]));
    return { ...values, first: first.value, last: last.value };
  }

  function send(type = "choose") {
    n += 1;
    code.replaceChildren();
    model.send({ type, n, choices: choices() });
    clearTimeout(waiting);
    waiting = setTimeout(() => { root.dataset.busy = "yes"; readout.textContent = "Counting …"; }, WAIT_MS);
  }

  /** Show the controls that the report has. */
  function show() {
    const has = HAS[report.value] ?? [];
    for (const name of ["then", "measure", "by", "unit"]) controls[name].box.hidden = !has.includes(name);
    value.box.hidden = !where.value;
  }

  let points = [], at = -1, html = null;
  const nameOf = (point) => point.querySelector("title")?.textContent ?? "";

  function read(i, scroll = true) {
    points[at]?.classList.remove("mpnb-point");
    at = i;
    const point = points[at];
    if (!point) return;
    point.classList.add("mpnb-point");
    setText(readout, nameOf(point));
    if (scroll) point.scrollIntoView?.({ block: "nearest", inline: "nearest" });
  }

  function paintFigure(page) {
    if (page === html) return;
    html = page;
    const open = figure.querySelector("details")?.open;
    figure.innerHTML = page ?? "";
    if (open) figure.querySelector("details").open = true;
    points = [...figure.querySelectorAll("svg title")].map((title) => title.parentElement);
    // Dots follow their line, ribbons what they come from; cells are in groups by colour, and read row by row.
    if (points[0]?.parentElement.tagName === "g") {
      const place = new Map(points.map((point) => [point, point.getBoundingClientRect()]));
      points.sort((a, b) => Math.round(place.get(a).top - place.get(b).top) || place.get(a).left - place.get(b).left);
    }
    at = -1;
  }

  function paint() {
    const now = answer(), can = lists();
    if (!can.reports || !now.choices) return;
    report.fill(can.reports);
    measure.fill(can.measures.map((each) => [each, each]));
    by.fill([["", "nothing"], ...can.properties.map((each) => [each, each])]);
    unit.fill(can.units.map((each) => [each, each]));
    where.fill([["", "all events"], ...can.properties.map((each) => [each, each])]);
    value.fill([["", "anything"], ...can.values.map(([each, count]) => [each, count == null ? each : `${each} (${count.toLocaleString("en-US")})`])]);
    if (now.n >= n) { // an answer to the last choice: to others, the controls have gone on
      n = now.n;
      for (const [name, control] of Object.entries(controls)) control.value = now.choices[name];
      for (const [input, day] of [[first, now.choices.first], [last, now.choices.last]]) {
        const of = can.days.length ? (input === first ? can.days[0][0] : can.days.at(-1)[0]) : "";
        if (input.getRootNode().activeElement !== input) input.value = day || of;
      }
      clearTimeout(waiting);
      if (root.dataset.busy) setText(readout, "");
      delete root.dataset.busy;
    }
    show();
    paintStrip(can.days, first.value, last.value);
    setText(error, now.error ?? "");
    error.hidden = !now.error;
    paintFigure(now.html);
    setText(offer, now.offer ?? "");
    offer.hidden = !now.offer;
  }

  copy.addEventListener("click", async () => {
    const text = answer().code ?? "";
    let said = "Copied";
    try { await navigator.clipboard.writeText(text); } catch { said = "Copy it from below"; }
    code.replaceChildren();
    make("pre", "", code, { tabindex: 0, "aria-label": "The same as code" }).textContent = text;
    setText(readout, said);
  });
  offer.addEventListener("click", () => send("type"));
  figure.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step === undefined || !points.length || event.target.closest("details")) return;
    event.preventDefault();
    read(at < 0 ? (step > 0 ? 0 : points.length - 1) : Math.max(0, Math.min(points.length - 1, at + step)));
  });
  figure.addEventListener("pointerover", (event) => {
    const i = points.indexOf(event.target);
    if (i >= 0) read(i, false);
  });
  const passKeys = keepKeys(el);
  const heard = [["change:lists", paint], ["change:answer", paint]];
  for (const [name, callback] of heard) model.on(name, callback);
  paint();
  return () => { for (const [name, callback] of heard) model.off(name, callback); clearTimeout(waiting); passKeys(); };
}

export default { render };

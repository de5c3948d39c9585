// The fields. `values` is what they hold, by name, and written here alone; `info` comes from Python, and has the words:
// {labels, presets: [[label, value, days]], modes: [[label, value]], people_modes and history alike, fixed: [names],
// errors: {place: text}, folded, names: [[event, count]] or null}. Fields of profiles have names that begin with people_.
// {type: "names"} asks for the names, {type: "form"} says that a field changed.

const OFF = { autocomplete: "off", spellcheck: "false", autocapitalize: "off" };
const SUGGESTED = 8;

/** The names of events that begin or go on as the line with the caret does, the more frequent first. */
function matching(names, text, at) {
  const lines = text.split("\n");
  const line = text.slice(0, at).split("\n").length - 1;
  const typed = lines[line].trim().toLowerCase();
  const taken = new Set(lines.filter((_, i) => i !== line).map((other) => other.trim()));
  const found = names.filter(([name]) => !taken.has(name) && name.toLowerCase().includes(typed) && name !== lines[line].trim());
  const rank = ([name]) => (name.toLowerCase().startsWith(typed) ? 0 : 1);
  return { line, lines, found: found.sort((a, b) => rank(a) - rank(b)).slice(0, SUGGESTED) };
}

/** A list below a text of one name a line: arrows choose, Enter or a click takes, Escape closes. */
function suggestions(field, text, model, changed) {
  const list = make("ul", "mpnb-suggestions", field, { role: "listbox", id: `mpnb-${freshId()}`, "aria-label": "Suggestions" });
  list.hidden = true;
  // A text of several lines may not have the role of a combobox, but all else of one.
  Object.entries({ "aria-autocomplete": "list", "aria-haspopup": "listbox", "aria-controls": list.id })
    .forEach(([name, value]) => text.setAttribute(name, value));
  let chosen = -1, now = { line: 0, lines: [], found: [] };

  function close() {
    list.hidden = true;
    chosen = -1;
    text.removeAttribute("aria-activedescendant");
  }

  function choose(i) {
    chosen = i;
    [...list.children].forEach((item, n) => item.setAttribute("aria-selected", String(n === i)));
    const item = list.children[i];
    if (item) text.setAttribute("aria-activedescendant", item.id);
    else text.removeAttribute("aria-activedescendant");
  }

  function take(i) {
    const lines = [...now.lines];
    lines[now.line] = now.found[i][0];
    if (now.line === lines.length - 1) lines.push("");
    text.value = lines.join("\n");
    const end = lines.slice(0, now.line + 2).join("\n").length;
    text.setSelectionRange(end, end);
    changed();
    open();
  }

  function open() {
    const names = model.get("info").names;
    if (!names || text.getRootNode().activeElement !== text) return close();
    now = matching(names, text.value, text.selectionStart);
    list.replaceChildren(...now.found.map(([name, count], i) => {
      const item = make("li", "", null, { role: "option", id: `${list.id}-${i}`, "aria-selected": "false" });
      make("span", "", item).textContent = name;
      make("span", "mpnb-count", item).textContent = count.toLocaleString("en-US");
      item.addEventListener("pointerdown", (event) => { event.preventDefault(); take(i); });
      return item;
    }));
    list.hidden = !now.found.length;
    choose(-1);
  }

  text.addEventListener("focus", () => { model.send({ type: "names" }); open(); });
  text.addEventListener("blur", close);
  text.addEventListener("input", open);
  text.addEventListener("click", open);
  text.addEventListener("keydown", (event) => {
    if (list.hidden) { if (event.key === "ArrowDown" && event.altKey) open(); return; }
    const many = now.found.length;
    if (event.key === "ArrowDown") choose((chosen + 1) % many);
    else if (event.key === "ArrowUp") choose(chosen <= 0 ? many - 1 : chosen - 1);
    else if (event.key === "Enter" && chosen >= 0) take(chosen);
    else if (event.key === "Escape") close();
    else return;
    event.preventDefault();
  });
  return open;
}

function render({ model, el }) {
  const info = model.get("info"), labels = info.labels;
  const root = make("div", "mpnb-form", el, { role: "group", "aria-label": "What to export" });
  const folded = make("div", "mpnb-folded", root);
  const fields = make("div", "mpnb-fields", root);
  const controls = {}, errors = {};

  const places = []; // in order, each with the kind that alone has it, if there is one

  function place(name, kind) {
    const box = make("div", `mpnb-place mpnb-field-${name.replaceAll("_", "-")}`, fields);
    places.push([box, kind]);
    const row = make("div", "mpnb-row-of-fields", box);
    errors[name] = make("div", "mpnb-error", box, { role: "alert" });
    return row;
  }

  function text(name, kind, placeholder = "", label = labels[name.replace("people_", "")]) {
    controls[name] = labelled(place(name, kind), label, "input", { type: "text", placeholder, ...OFF });
  }

  /** Two radio buttons that look like one with two halves: one value in `controls`, like any other. Each has a longer
      name besides, since a field has its text, too. */
  function halves(parent, name, label, options) {
    const group = make("div", "mpnb-halves", parent, { role: "radiogroup", "aria-label": label });
    const key = `mpnb-${freshId()}`;
    const inputs = options.map(([text, value, whole]) => {
      const half = make("label", "", group);
      const input = make("input", "", half, { type: "radio", name: key, value, "aria-label": whole });
      make("span", "", half).textContent = text;
      return input;
    });
    controls[name] = {
      get value() { return inputs.find((input) => input.checked)?.value ?? options[0][1]; },
      set value(value) { for (const input of inputs) input.checked = input.value === value; },
      addEventListener: (...heard) => inputs.forEach((input) => input.addEventListener(...heard)),
    };
  }

  function choice(parent, name, label, options) {
    const select = labelled(parent, label, "select");
    for (const [text, value] of options) make("option", "", select, { value }).textContent = text;
    controls[name] = select;
  }

  halves(place("kind"), "kind", "What to export", [["Events", "events", "Raw events"], ["Profiles", "profiles", "Profiles of people or groups"]]);
  const dates = place("dates", "events");
  dates.classList.add("mpnb-days");
  choice(dates, "preset", "Days", info.presets);
  controls.first = labelled(dates, labels.from_date, "input", { type: "date" });
  controls.last = labelled(dates, labels.to_date, "input", { type: "date" });
  const range = make("span", "mpnb-range", dates);
  choice(place("mode", "events"), "mode", labels.mode, info.modes);
  const names = place("events", "events");
  controls.events = labelled(names, labels.events, "textarea", { rows: 1, placeholder: "all, or one name a line", ...OFF });
  text("where", "events", 'properties["$os"] == "iOS"');
  controls.people_properties = labelled(place("people_properties", "profiles"), labels.properties, "textarea", { rows: 1, placeholder: "all, or one name a line", ...OFF });
  text("people_where", "profiles", 'properties["plan"] == "pro"');
  for (const name of ["people_cohort", "people_group", "people_workspace"]) text(name, "profiles", "its number, or none");
  choice(place("people_mode", "profiles"), "people_mode", labels.mode, info.people_modes);
  text("people_max_age", "profiles");
  choice(place("people_history", "profiles"), "people_history", labels.history, info.history);
  text("database");
  text("table", "events");
  text("people_table", "profiles");
  text("workers", "events", "1–100");
  text("people_workers", "profiles", "1–100");
  text("chunk_days", "events", "1–100, or auto");
  text("people_page_size", "profiles", "a number, or auto");
  errors.form = make("div", "mpnb-error", root, { role: "alert" });
  for (const name of info.fixed) controls[name].disabled = true;

  function paintDates() {
    const custom = controls.preset.value === "custom";
    controls.first.parentElement.hidden = controls.last.parentElement.hidden = !custom;
    range.hidden = custom;
    setText(range, model.get("info").presets.find(([, value]) => value === controls.preset.value)?.[2] ?? "");
  }

  /** Have the places of what is chosen alone in the page: some fields of both have the same label. */
  function paintKind() {
    let before = null;
    for (const [box, kind] of places) {
      if (kind && kind !== controls.kind.value) { box.remove(); continue; }
      if (!box.parentNode) fields.insertBefore(box, before.nextSibling);
      before = box;
    }
  }

  function write() {
    const values = Object.fromEntries(Object.entries(controls).map(([name, control]) => [name, control.value]));
    model.set("values", values);
    model.save_changes();
    paintKind();
    paintDates();
  }

  function read() {
    const values = model.get("values");
    for (const [name, control] of Object.entries(controls)) if (control.value !== values[name]) control.value = values[name] ?? "";
    paintKind();
    paintDates();
  }

  let known = JSON.stringify(info.names);
  const suggest = suggestions(controls.events.parentElement, controls.events, model, write);

  function paint() {
    const now = model.get("info");
    setText(folded, now.folded);
    folded.hidden = !now.folded;
    fields.hidden = Boolean(now.folded);
    for (const [name, place] of Object.entries(errors)) {
      setText(place, now.errors[name] ?? "");
      place.hidden = !now.errors[name] || Boolean(now.folded);
    }
    paintDates();
    const names = JSON.stringify(now.names);
    if (names !== known) suggest(); // anything else that is said would undo a choice
    known = names;
  }

  function onMessage(message) {
    if (message.type !== "reset") return;
    for (const [name, value] of Object.entries(message.values)) controls[name].value = value;
    write();
  }

  for (const control of Object.values(controls)) control.addEventListener("input", write);
  const passKeys = keepKeys(el);
  const heard = [["change:info", paint], ["change:values", read], ["msg:custom", onMessage]];
  for (const [name, callback] of heard) model.on(name, callback);
  read();
  paint();
  return () => { for (const [name, callback] of heard) model.off(name, callback); passKeys(); };
}

export default { render };

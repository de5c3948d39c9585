// Asks for a service account. What is typed here goes to Python as one message and is no trait, so that no notebook
// keeps it. `info` says what is known: {found, open, text, error, regions, region}.

function make(tag, className, parent, attributes = {}) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  parent?.append(node);
  return node;
}

function field(parent, label, tag, attributes = {}) {
  // Each panel of a page has this module anew: a number that it counts here would be another panel's as well.
  const id = `mpnb-login-${crypto.getRandomValues(new Uint32Array(2)).join("-")}`;
  const box = make("div", "mpnb-field", parent);
  make("label", "", box, { for: id }).textContent = label;
  return make(tag, "", box, { id, ...attributes });
}

function render({ model, el }) {
  const details = make("details", "mpnb-login", el);
  const summary = make("summary", "", details);
  const form = make("form", "", details);
  const off = { autocomplete: "off", spellcheck: "false", autocapitalize: "off" };
  const username = field(form, "Service account", "input", { type: "text", placeholder: "name.mp-service-account", ...off });
  const secret = field(form, "Secret", "input", { type: "password", ...off, autocomplete: "new-password" });
  const project = field(form, "Project id", "input", { type: "text", inputmode: "numeric", ...off });
  const region = field(form, "Region", "select");
  const button = make("button", "mpnb-button mpnb-plain", form, { type: "submit" });
  button.textContent = "Use these";
  const error = make("div", "mpnb-error", details, { role: "alert" });

  function paint() {
    const info = model.get("info");
    summary.textContent = info.text ?? "";
    details.classList.toggle("mpnb-missing", !info.found);
    details.open = info.open;
    if (info.found && !info.error) secret.value = "";
    error.textContent = info.error ?? "";
    const regions = info.regions ?? [];
    if (region.childElementCount !== regions.length) {
      region.replaceChildren(...regions.map((name) => { const o = make("option", ""); o.value = o.textContent = name; return o; }));
      region.value = info.region ?? regions[0];
    }
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (el.closest(".jupyter-widgets-disconnected")) return; // the kernel is gone, and the grid below says so
    model.send({
      type: "login", username: username.value, secret: secret.value, project_id: project.value, region: region.value,
    });
  });
  model.on("change:info", paint);
  paint();
  return () => model.off("change:info", paint);
}

export default { render };

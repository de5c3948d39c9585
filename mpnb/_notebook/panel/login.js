// Asks for a service account. What is typed here goes to Python as one message and is no trait, so that no notebook
// keeps it. `info` says what is known: {found, open, hidden, text, error, regions, region}.

function render({ model, el }) {
  const details = make("details", "mpnb-login", el);
  const summary = make("summary", "", details);
  const form = make("form", "", details);
  const off = { autocomplete: "off", spellcheck: "false", autocapitalize: "off" };
  const username = labelled(form, "Service account", "input", { type: "text", placeholder: "name.mp-service-account", ...off });
  const secret = labelled(form, "Secret", "input", { type: "password", ...off, autocomplete: "new-password" });
  const project = labelled(form, "Project id", "input", { type: "text", inputmode: "numeric", ...off });
  const region = labelled(form, "Region", "select");
  const button = make("button", "mpnb-button mpnb-plain", form, { type: "submit" });
  button.textContent = "Use these";
  const error = make("div", "mpnb-error", details, { role: "alert" });

  function paint() {
    const info = model.get("info");
    summary.textContent = info.text ?? "";
    details.classList.toggle("mpnb-missing", !info.found);
    details.open = info.open;
    details.hidden = info.hidden;
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
  const passKeys = keepKeys(el);
  model.on("change:info", paint);
  paint();
  return () => { model.off("change:info", paint); passKeys(); };
}

export default { render };

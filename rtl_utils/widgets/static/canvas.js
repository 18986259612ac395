// The scene of a notebook's panel. Binary values arrive as DataViews; `charts.js` stands above.

function typed(value) {
  if (value instanceof DataView)
    return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
  if (Array.isArray(value)) return value.map(typed);
  if (value === null || typeof value !== "object") return value;
  if ("float32" in value) return new Float32Array(typed(value.float32).slice().buffer);
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, typed(part)]));
}

// What ipywidgets does not say to a screen reader: the names of slider handles, of the numbers beside
// them, of progress bars and of rows of buttons; how far a bar is; which button is pressed.
function nameControls(panel) {
  for (const control of panel.querySelectorAll(".widget-slider")) {
    const name = nameOf(control);
    for (const handle of control.querySelectorAll(".noUi-handle")) set(handle, "aria-label", name);
    for (const number of control.querySelectorAll(".widget-readout")) {
      set(number, "role", "textbox");
      set(number, "aria-label", `${name}, as a number`);
    }
  }
  for (const control of panel.querySelectorAll(".widget-hprogress")) {
    const bar = control.querySelector(".progress");
    set(bar, "role", "progressbar");
    set(bar, "aria-label", nameOf(control));
    set(bar, "aria-valuenow", String(Math.round(parseFloat(bar.firstChild.style.width) || 0)));
  }
  for (const control of panel.querySelectorAll(".widget-toggle-buttons")) {
    set(control, "role", "group");
    set(control, "aria-label", nameOf(control) || "panels");
    for (const button of control.querySelectorAll(".widget-toggle-button"))
      set(button, "aria-pressed", String(button.classList.contains("mod-active")));
  }
}

function nameOf(control) {
  const label = control.querySelector(".widget-label");
  return label ? label.textContent.trim() : "";
}

// only where it changes something: whoever observes the panel would be called again
function set(element, attribute, value) {
  if (element.getAttribute(attribute) !== value) element.setAttribute(attribute, value);
}

function render({ model, el }) {
  const scene = document.createElement("div");
  scene.className = "rtl-scene";
  el.append(scene);
  const show = () => showScene(scene, typed(model.get("scene")));
  model.on("change:scene", show);
  show();
  let observer = null;
  // the panel around the canvas is there only after this call
  const waiting = requestAnimationFrame(() => {
    const panel = el.closest(".rtl-page") || el.closest(".rtl-panel");
    if (panel === null) return;
    observer = new MutationObserver(() => nameControls(panel));
    observer.observe(panel, { attributeFilter: ["class", "style"], childList: true, subtree: true });
    nameControls(panel);
  });
  return () => {
    cancelAnimationFrame(waiting);
    if (observer) observer.disconnect();
    model.off("change:scene", show);
  };
}

export default { render };

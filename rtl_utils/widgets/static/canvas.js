// The scene of a notebook's panel. Binary values arrive as DataViews; `charts.js` stands above.

function typed(value) {
  if (value instanceof DataView) return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
  if (Array.isArray(value)) return value.map(typed);
  if (value === null || typeof value !== "object") return value;
  if ("float32" in value) return new Float32Array(typed(value.float32).slice().buffer);
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, typed(part)]));
}

// What ipywidgets does not say to a screen reader: names of slider handles and progress bars, and
// which button of a row is pressed.
function nameControls(panel) {
  for (const control of panel.querySelectorAll(".widget-slider, .widget-hprogress")) {
    const label = control.querySelector(".widget-label");
    const name = label ? label.textContent.trim() : "";
    for (const part of control.querySelectorAll(".noUi-handle")) set(part, "aria-label", name);
    for (const bar of control.querySelectorAll(".progress")) {
      set(bar, "role", "progressbar");
      set(bar, "aria-label", name);
    }
  }
  for (const button of panel.querySelectorAll(".widget-toggle-button"))
    set(button, "aria-pressed", String(button.classList.contains("mod-active")));
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
    observer.observe(panel, { attributeFilter: ["class"], childList: true, subtree: true });
    nameControls(panel);
  });
  return () => {
    cancelAnimationFrame(waiting);
    if (observer) observer.disconnect();
    model.off("change:scene", show);
  };
}

export default { render };

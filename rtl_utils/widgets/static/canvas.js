// The scene of a notebook's panel. Binary values arrive as DataViews; `charts.js` stands above.

function typed(value) {
  if (value instanceof DataView) return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
  if (Array.isArray(value)) return value.map(typed);
  if (value === null || typeof value !== "object") return value;
  if ("float32" in value) return new Float32Array(typed(value.float32).slice().buffer);
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, typed(part)]));
}

// The handles of ipywidgets' sliders and their progress bars have no names of their own.
function nameControls(panel) {
  for (const control of panel.querySelectorAll(".widget-slider, .widget-hprogress")) {
    const label = control.querySelector(".widget-label");
    const name = label ? label.textContent.trim() : "";
    for (const part of control.querySelectorAll(".noUi-handle")) part.setAttribute("aria-label", name);
    const bar = control.querySelector(".progress");
    if (bar) {
      bar.setAttribute("role", "progressbar");
      bar.setAttribute("aria-label", name);
    }
  }
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
    const panel = el.closest(".rtl-panel");
    if (panel === null) return;
    observer = new MutationObserver(() => nameControls(panel));
    observer.observe(panel, { childList: true, subtree: true });
    nameControls(panel);
  });
  return () => {
    cancelAnimationFrame(waiting);
    if (observer) observer.disconnect();
    model.off("change:scene", show);
  };
}

export default { render };

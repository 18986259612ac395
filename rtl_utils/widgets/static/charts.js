// Charts on canvases: what the sliders in notebooks and the explorer's page show.
// A scene is a list of charts; `rtl_utils/widgets/scenes.py` says what each kind holds.

const INK = "#1c1c1c";
const FAINT = "#b8b8b8";
const FONT = "13px system-ui, sans-serif";
const SMALL = "12px system-ui, sans-serif";
const MARGIN = { left: 48, right: 10, top: 8, bottom: 36 };
const [WIDE, TALL] = [390, 240]; // of curves and dots
const LEGEND_ROW = 16;

// --- the scene ---------------------------------------------------------------------------------

// Show a scene inside an element. Figures are made anew only where the kinds of chart change.
function showScene(parent, scene) {
  const kinds = scene.map((chart) => chart.kind).join(" ");
  if (parent.dataset.kinds !== kinds) {
    parent.replaceChildren(...scene.map(newFigure));
    parent.dataset.kinds = kinds;
  }
  scene.forEach((chart, k) => drawFigure(parent.children[k], chart));
  parent.dataset.drawn = String(Number(parent.dataset.drawn || 0) + 1);
}

function newFigure() {
  const figure = document.createElement("figure");
  figure.className = "rtl-chart";
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  figure.append(document.createElement("figcaption"), canvas);
  return figure;
}

function drawFigure(figure, chart) {
  const [caption, canvas] = figure.children;
  const { size, draw, describe } = KINDS[chart.kind];
  const [width, height] = size(chart);
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.style.width = `${width}px`;
  canvas.style.aspectRatio = `${width} / ${height}`;
  caption.textContent = chart.title;
  canvas.setAttribute("aria-label", `${chart.title}: ${describe(chart)}`);
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.font = FONT;
  draw(pen, chart, width, height);
}

const KINDS = {
  image: { size: () => [120, 120], draw: drawImage, describe: describeImage },
  bars: { size: barsSize, draw: drawBars, describe: describeBars },
  heat: { size: heatSize, draw: drawHeat, describe: describeHeat },
  curves: { size: curvesSize, draw: drawCurves, describe: describeCurves },
  dots: { size: () => [WIDE, TALL], draw: drawDots, describe: describeDots },
};

// --- image: {height, width, pixels} ------------------------------------------------------------

function drawImage(pen, chart, width, height) {
  const small = new OffscreenCanvas(chart.width, chart.height);
  const data = new ImageData(chart.width, chart.height);
  for (let i = 0; i < chart.width * chart.height; i++) {
    data.data.set(chart.pixels.subarray(3 * i, 3 * i + 3), 4 * i);
    data.data[4 * i + 3] = 255;
  }
  small.getContext("2d").putImageData(data, 0, 0);
  pen.imageSmoothingEnabled = false;
  pen.drawImage(small, 0, 0, width, height);
}

function describeImage(chart) {
  return `an image of ${chart.width} by ${chart.height} pixels`;
}

// --- bars: {labels, values, colours, low, high, ylabel} ----------------------------------------

function barsSize(chart) {
  return [Math.min(590, 56 + Math.max(130, 20 * chart.values.length)), 154 + barsMargin(chart)];
}

function barsMargin(chart) {
  const longest = Math.max(0, ...chart.labels.map((text) => text.length));
  return areLong(chart.labels) ? 16 + 4.6 * longest : MARGIN.bottom;
}

function areLong(labels) {
  return labels.some((text) => text.length > 4);
}

function drawBars(pen, chart, width, height) {
  const n = chart.values.length;
  const box = [MARGIN.left, MARGIN.top, width - MARGIN.right, height - barsMargin(chart)];
  const limits = [[-0.5, n - 0.5], [chart.low, chart.high]];
  const axes = frame(pen, width, height, ...limits, "", chart.ylabel, box);
  yTicks(pen, axes);
  const step = axes.x(1) - axes.x(0);
  const zero = axes.y(Math.max(chart.low, Math.min(0, chart.high)));
  chart.values.forEach((value, k) => {
    const top = axes.y(Math.max(chart.low, Math.min(chart.high, value)));
    pen.fillStyle = chart.colours[k % chart.colours.length];
    pen.fillRect(axes.x(k) - 0.4 * step, Math.min(top, zero), 0.8 * step, Math.abs(zero - top));
  });
  const labels = chart.labels.map((text, k) => [k, text]);
  if (areLong(chart.labels)) slantedLabels(pen, axes, labels);
  else xLabels(pen, axes, labels);
}

function describeBars(chart) {
  const share = chart.high === 1 && chart.low === 0;
  return Array.from(chart.values, (value, k) => {
    const text = share ? `${Math.round(100 * value)} %` : value.toPrecision(2);
    return `${chart.labels[k] || k} ${text}`;
  }).join(", ");
}

// --- heat: {rows, columns, values, low, high, xlabel, ylabel, xticks, yticks, cursor, texts} ----

function heatSize(chart) {
  const cell = Math.max(14, Math.min(44, 230 / chart.columns));
  const left = heatMargin(chart);
  return [left + cell * chart.columns + MARGIN.right, Math.max(180, 16 * chart.rows) + 48];
}

function heatMargin(chart) {
  const longest = Math.max(0, ...chart.yticks.map(([, text]) => text.length));
  return 26 + 7 * longest;
}

function drawHeat(pen, chart, width, height) {
  const box = [heatMargin(chart), MARGIN.top, width - MARGIN.right, height - 40];
  const limits = [[-0.5, chart.columns - 0.5], [chart.rows - 0.5, -0.5]];
  const axes = frame(pen, width, height, ...limits, chart.xlabel, chart.ylabel, box);
  const [w, h] = [axes.x(1) - axes.x(0), axes.y(1) - axes.y(0)];
  for (let r = 0; r < chart.rows; r++)
    for (let c = 0; c < chart.columns; c++) {
      const value = chart.values[r * chart.columns + c];
      const share = Math.max(0, Math.min(1, (value - chart.low) / (chart.high - chart.low)));
      pen.fillStyle = Number.isNaN(value) ? "#ffffff" : grey(share);
      pen.fillRect(axes.x(c - 0.5), axes.y(r - 0.5), w + 0.5, h + 0.5);
      if (chart.texts) {
        pen.fillStyle = share > 0.5 ? "#ffffff" : INK;
        pen.textAlign = "center";
        pen.fillText(chart.texts[r * chart.columns + c], axes.x(c), axes.y(r) + 4);
      }
    }
  xLabels(pen, axes, chart.xticks);
  pen.textAlign = "right";
  pen.fillStyle = INK;
  for (const [row, text] of chart.yticks) pen.fillText(text, box[0] - 4, axes.y(row) + 4);
  if (chart.cursor) {
    pen.strokeStyle = "#D55E00";
    pen.lineWidth = 2.5;
    pen.strokeRect(axes.x(chart.cursor[1] - 0.5), axes.y(chart.cursor[0] - 0.5), w, h);
  }
}

function grey(share) {
  const level = Math.round(255 - share * (255 - 28));
  return `rgb(${level}, ${level}, ${level})`;
}

function describeHeat(chart) {
  if (chart.texts) return describeTexts(chart);
  if (!chart.cursor) return `${chart.rows} by ${chart.columns} values`;
  const [row, column] = chart.cursor;
  const value = chart.values[row * chart.columns + column];
  return `${value.toPrecision(2)} at row ${row + 1}, column ${column + 1}`;
}

function describeTexts({ rows, columns, texts }) {
  const row = (k) => Array.from(texts).slice(k * columns, (k + 1) * columns).join(" ");
  return Array.from({ length: rows }, (_, k) => `row ${k + 1}: ${row(k)}`).join("; ");
}

// --- curves: {lines, xlabel, ylabel, xlim, ylim, cursor, level} --------------------------------

function curvesSize(chart) {
  return [WIDE, TALL + LEGEND_ROW * legendRows(chart.lines).length];
}

function drawCurves(pen, chart, width, height) {
  const rows = legendRows(chart.lines);
  const top = MARGIN.top + LEGEND_ROW * rows.length;
  const box = [MARGIN.left, top, width - MARGIN.right, height - MARGIN.bottom];
  const axes = frame(pen, width, height, chart.xlim, chart.ylim, chart.xlabel, chart.ylabel, box);
  yTicks(pen, axes);
  xTicks(pen, axes);
  drawLevel(pen, axes, chart.level);
  if (chart.cursor !== null) stroke(pen, INK, 1, [], axes.ylim.map((y) => [chart.cursor, y]), axes);
  for (const line of chart.lines) {
    const points = Array.from(line.x, (x, k) => [x, line.y[k]]);
    stroke(pen, line.colour, 2.2, line.dashed ? [5, 4] : [], points, axes);
    if (points.length === 1) dot(pen, axes, points[0], line.colour, 4);
  }
  rows.forEach((row, k) => drawLegend(pen, row, LEGEND_ROW * (k + 1)));
}

// The values at the cursor, or the last ones.
function describeCurves(chart) {
  const place = chart.cursor === null ? "" : `${chart.xlabel} ${Number(chart.cursor.toFixed(2))}: `;
  return place + named(chart.lines).map(({ name, x, y }) => {
    const value = y[chart.cursor === null ? y.length - 1 : nearest(x, chart.cursor)];
    return `${name} ${Number.isFinite(value) ? value.toPrecision(2) : "nothing yet"}`;
  }).join(", ");
}

function nearest(values, wanted) {
  const far = (k) => Math.abs(values[k] - wanted);
  return [...values.keys()].reduce((best, k) => (far(k) < far(best) ? k : best), 0);
}

// --- the legend of curves, above the axes ------------------------------------------------------

function named(lines) {
  return lines.filter(({ name }) => name);
}

// The lines that have a name, each with its place from the left, in as many rows as they need.
function legendRows(lines) {
  const rows = [];
  let left = WIDE;
  for (const line of named(lines)) {
    const width = 48 + 7 * line.name.length;
    if (left + width > WIDE) {
      rows.push([]);
      left = MARGIN.left;
    }
    rows[rows.length - 1].push([left, line]);
    left += width;
  }
  return rows;
}

function drawLegend(pen, row, y) {
  pen.textAlign = "left";
  pen.font = SMALL;
  pen.lineWidth = 3;
  for (const [left, { name, colour, dashed }] of row) {
    pen.strokeStyle = colour;
    pen.setLineDash(dashed ? [5, 4] : []);
    pen.beginPath();
    pen.moveTo(left, y - 4);
    pen.lineTo(left + 22, y - 4);
    pen.stroke();
    pen.fillStyle = INK;
    pen.fillText(name, left + 28, y);
  }
  pen.setLineDash([]);
}

// --- dots: {groups, ylabel, ylim, level} -------------------------------------------------------

function drawDots(pen, chart, width, height) {
  const n = chart.groups.length;
  const axes = frame(pen, width, height, [-0.5, n - 0.5], chart.ylim, "", chart.ylabel);
  yTicks(pen, axes);
  drawLevel(pen, axes, chart.level);
  chart.groups.forEach((group, k) => {
    group.values.forEach((value, j) => {
      const aside = group.values.length < 2 ? 0 : (j / (group.values.length - 1) - 0.5) * 0.4;
      dot(pen, axes, [k + aside, value], group.colour, 3.5);
    });
    if (group.interval === null) return;
    const [low, mean, high] = group.interval;
    stroke(pen, INK, 2, [], [[k + 0.32, low], [k + 0.32, high]], axes);
    dot(pen, axes, [k + 0.32, mean], INK, 5);
  });
  xLabels(pen, axes, chart.groups.map((group, k) => [k, group.name]));
}

function describeDots(chart) {
  return chart.groups.map(({ name, values, interval }) => {
    if (interval === null) return `${name}: ${values.length} values`;
    const [low, mean, high] = interval.map((value) => value.toPrecision(3));
    return `${name}: mean ${mean}, interval ${low} to ${high}, ${values.length} values`;
  }).join("; ");
}

// --- axes --------------------------------------------------------------------------------------

function frame(pen, width, height, xlim, ylim, xlabel, ylabel, box) {
  const [left, top, right, bottom] = box ||
    [MARGIN.left, MARGIN.top, width - MARGIN.right, height - MARGIN.bottom];
  pen.clearRect(0, 0, width, height);
  pen.lineWidth = 1;
  pen.strokeStyle = FAINT;
  pen.strokeRect(left, top, right - left, bottom - top);
  pen.fillStyle = INK;
  pen.font = FONT;
  pen.textAlign = "center";
  pen.fillText(xlabel, (left + right) / 2, height - 4);
  pen.save();
  pen.translate(12, (top + bottom) / 2);
  pen.rotate(-Math.PI / 2);
  pen.fillText(ylabel, 0, 0);
  pen.restore();
  const x = (value) => left + ((value - xlim[0]) / (xlim[1] - xlim[0])) * (right - left);
  const y = (value) => bottom - ((value - ylim[0]) / (ylim[1] - ylim[0])) * (bottom - top);
  return { x, y, xlim, ylim, left, top, right, bottom };
}

function ticks([low, high]) {
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((k) => k * power >= rough);
  const first = Math.ceil(low / step - 1e-9);
  const found = [];
  for (let k = first; k * step <= high + 1e-9 * step; k++) found.push(k * step);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  return found.map((value) => [value, value.toFixed(digits)]);
}

function yTicks(pen, axes) {
  pen.textAlign = "right";
  pen.font = SMALL;
  for (const [value, text] of ticks(axes.ylim)) {
    stroke(pen, "#e8e8e8", 1, [], [[axes.xlim[0], value], [axes.xlim[1], value]], axes);
    pen.fillStyle = INK;
    pen.fillText(text, axes.left - 4, axes.y(value) + 4);
  }
}

function xTicks(pen, axes) {
  xLabels(pen, axes, ticks(axes.xlim));
}

function xLabels(pen, axes, labels) {
  pen.textAlign = "center";
  pen.font = SMALL;
  pen.fillStyle = INK;
  for (const [value, text] of labels) pen.fillText(text, axes.x(value), axes.bottom + 15);
}

function slantedLabels(pen, axes, labels) {
  pen.textAlign = "right";
  pen.font = SMALL;
  pen.fillStyle = INK;
  for (const [value, text] of labels) {
    pen.save();
    pen.translate(axes.x(value) + 4, axes.bottom + 12);
    pen.rotate(-Math.PI / 4);
    pen.fillText(text, 0, 0);
    pen.restore();
  }
}

function drawLevel(pen, axes, level) {
  if (!level) return;
  stroke(pen, "#808080", 1.2, [4, 4], [[axes.xlim[0], level[0]], [axes.xlim[1], level[0]]], axes);
  pen.textAlign = "right";
  pen.font = SMALL;
  pen.fillStyle = "#5a5a5a";
  pen.fillText(level[1], axes.right - 4, axes.y(level[0]) - 4);
}

function stroke(pen, colour, width, dashes, points, axes) {
  pen.strokeStyle = colour;
  pen.lineWidth = width;
  pen.setLineDash(dashes);
  pen.save();
  pen.beginPath();
  pen.rect(axes.left, axes.top - 2, axes.right - axes.left, axes.bottom - axes.top + 4);
  pen.clip();
  pen.beginPath();
  let gap = true;
  for (const [x, y] of points) {
    const known = Number.isFinite(y);
    if (known && gap) pen.moveTo(axes.x(x), axes.y(y));
    else if (known) pen.lineTo(axes.x(x), axes.y(y));
    gap = !known;
  }
  pen.stroke();
  pen.restore();
  pen.setLineDash([]);
}

function dot(pen, axes, [x, y], colour, radius) {
  if (!Number.isFinite(y)) return;
  pen.fillStyle = colour;
  pen.beginPath();
  pen.arc(axes.x(x), axes.y(y), radius, 0, 2 * Math.PI);
  pen.fill();
}

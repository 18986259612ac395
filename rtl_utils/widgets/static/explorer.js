// The explorer's page: turns the values of its controls into scenes, which `charts.js` above draws.
// `rtl_utils/widgets/explorer.py` writes the page and its arrays.

const DATA = unpacked(JSON.parse(document.getElementById("data").textContent));
const METHODS = DATA.models.slice(1); // the first model is the backbone, from which they start
const EPOCHS = DATA.epochs;
const LAST_EPOCH = EPOCHS[EPOCHS.length - 1];
const CLASSES = DATA.classes.length;
const LEVELS = 255; // of a stored probability
const UNUSED = "#c0c0c0";
const MARGIN_COLOUR = "#9a6700";
const PAUSE = 700; // milliseconds between two checkpoints of the replay

const UNITS = {
  loss: "loss, nats",
  accuracy: "accuracy",
  share: "share of predictions",
  length: "length",
};

// Slider -> its value in words. Most count from 0, so their last value is one less than how many.
const WORDS = {
  tau: (k) => DATA.taus[k].toFixed(2),
  epoch: (k) => counted(EPOCHS[k], "epoch"),
  pair: (k, last) => `${k + 1} of ${last + 1}`,
  image: (k, last) => `${k + 1} of ${last + 1}`,
  down: (k) => counted(k, "pixel"),
  across: (k) => counted(k, "pixel"),
  seeds: (n) => counted(n, "seed"),
  first: (k) => `seed ${DATA.seeds.names[k]}`,
};

const SECTIONS = {
  path: { scene: pathScene },
  map: { scene: mapScene },
  ball: { scene: ballScene },
  race: { scene: raceScene },
  seeds: { scene: seedsScene, sentence: seedsSentence },
};

// --- the path ----------------------------------------------------------------------------------

function pathScene({ tau, pair, epoch }) {
  const { source, target, labels, answers } = DATA.path;
  const w = DATA.taus[tau];
  const [from, to] = [part(source, pair), part(target, pair)];
  const mixed = from.map((value, k) => Math.round((1 - w) * value + w * to[k]));
  const label = new Float32Array(CLASSES);
  label[labels[pair][0]] += 1 - w;
  label[labels[pair][1]] += w;
  return [
    image("source", source, from),
    image(`tau = ${w.toFixed(2)}`, source, mixed),
    image("target", target, to),
    bars("soft label", label, INK),
    ...DATA.models.map((model) => answer(model, answers, epoch, pair, tau)),
  ];
}

// --- epochs and tau ----------------------------------------------------------------------------

function mapScene({ method, measure, epoch, tau }) {
  const maps = DATA.map[measure];
  const w = DATA.taus[tau];
  const axis = yAxis(measure, Object.values(maps).flatMap((map) => [...map.values]));
  const [low, high] = axis.ylim;
  const column = (of) => EPOCHS.map((_, k) => part(maps[of.name], k, tau)[0]);
  const framed = part(maps[method], epoch, tau)[0].toFixed(2);
  return [
    heat(`${measure}, ${model(method).label}: ${framed} in the frame`, maps[method], {
      low, high, xlabel: "tau", ylabel: "epoch",
      xticks: ticksOf(DATA.taus).filter((_, k) => k % 5 === 0),
      yticks: ticksOf(EPOCHS),
      cursor: [epoch, tau],
    }),
    curves(`${measure} after ${counted(EPOCHS[epoch], "epoch")}`, {
      ...axis, xlabel: "tau", xlim: [0, 1], cursor: w,
      lines: METHODS.map((of) => line(of, DATA.taus, part(maps[of.name], epoch))),
    }),
    curves(`${measure} at tau = ${w.toFixed(2)}`, {
      ...axis, xlabel: "epoch", xlim: [0, LAST_EPOCH], cursor: EPOCHS[epoch],
      lines: METHODS.map((of) => line(of, EPOCHS, column(of))),
    }),
  ];
}

// --- the ball ----------------------------------------------------------------------------------

function ballScene({ image: chosen, planted, down, across, epoch, model: name }) {
  const { images, truths, places, label, answers } = DATA.ball;
  const clean = part(images, chosen);
  const pixels = planted ? withPatch(clean, down, across) : clean;
  const all = places * places; // after all places comes the answer without the ball
  const now = planted ? down * places + across : all;
  const values = Float32Array.from({ length: all }, (_, place) =>
    shares(model(name), answers, epoch, chosen, place)[label]);
  const map = { shape: [places, places], values };
  const ticks = ticksOf([...Array(places).keys()]).filter((_, k) => k % 4 === 0);
  return [
    image(`true class: ${truths[chosen]}`, images, pixels),
    ...DATA.models.map((of) => answer(of, answers, epoch, chosen, now)),
    heat(`${model(name).label}: probability of ${DATA.classes[label]}`, map, {
      low: 0, high: 1, xlabel: "pixels from the left", ylabel: "pixels from the top",
      xticks: ticks, yticks: ticks, cursor: planted ? [down, across] : null,
    }),
  ];
}

// The image with the patch on it, its top left corner at that place.
function withPatch(pixels, down, across) {
  const { images, patch } = DATA.ball;
  const [height, width] = patch.shape;
  const mixed = pixels.slice();
  for (let r = 0; r < height; r++)
    for (let c = 0; c < width; c++) {
      const [red, green, blue, alpha] = part(patch, r, c);
      const start = 3 * ((down + r) * images.shape[2] + across + c);
      [red, green, blue].forEach((colour, k) => {
        mixed[start + k] = Math.round(alpha * colour + (1 - alpha) * pixels[start + k]);
      });
    }
  return mixed;
}

// Without the patch there is nothing to place.
function placed({ planted, down, across }) {
  planted.addEventListener("input", () => {
    for (const slider of [down, across]) slider.disabled = !planted.checked;
  });
}

// --- the race ----------------------------------------------------------------------------------

function raceScene({ epoch }) {
  const { name } = DATA.ball;
  const matrices = METHODS.map((of) => confusion(of, DATA.race[of.name], epoch));
  return [
    progress("accuracy", `accuracy without the ${name}`, epoch),
    progress("loss", `loss without the ${name}`, epoch),
    matrices[0],
    progress("share", `predictions in the ${name}'s class, ${name} on every image`, epoch),
    progress("length", "length of the weights' trajectory", epoch),
    ...matrices.slice(1),
  ];
}

// Curves of what was measured until now.
function progress(measure, title, epoch) {
  return curves(title, {
    ...yAxis(measure, METHODS.flatMap((of) => DATA.race[of.name][measure])),
    xlabel: "epoch",
    xlim: [0, LAST_EPOCH],
    cursor: EPOCHS[epoch],
    lines: METHODS.map((of) =>
      line(of, EPOCHS.slice(0, epoch + 1), DATA.race[of.name][measure].slice(0, epoch + 1))),
  });
}

function confusion({ label }, moments, epoch) {
  const counts = moments.confusion[epoch];
  const values = counts.flatMap((row) => {
    const images = row.reduce((a, b) => a + b);
    return row.map((count) => count / images);
  });
  const title = `${label}, tau = ${moments.tau[epoch].toFixed(2)}`;
  return heat(title, { shape: [CLASSES, CLASSES], values }, {
    low: 0, high: 1, xlabel: "predicted", ylabel: "true class",
    xticks: ticksOf(DATA.targets), yticks: ticksOf(DATA.targets),
    texts: counts.flat().map(String), cursor: null,
  });
}

// Play and Pause: moves the epoch slider on until its end, or until the button is pressed again.
function replayed(form) {
  const button = form.querySelector("button");
  const slider = form.elements.epoch;
  let timer = null;
  const move = (value) => {
    slider.value = value;
    slider.dispatchEvent(new Event("input", { bubbles: true }));
  };
  const pause = () => {
    clearInterval(timer);
    timer = null;
    button.textContent = "Play";
  };
  button.addEventListener("click", () => {
    if (timer !== null) return pause();
    if (slider.value === slider.max) move(0);
    button.textContent = "Pause";
    timer = setInterval(() => {
      move(slider.valueAsNumber + 1);
      if (slider.value === slider.max) pause();
    }, PAUSE);
  });
}

// --- how many seeds ----------------------------------------------------------------------------

function seedsScene({ claim: chosen, seeds, first }) {
  const claim = DATA.seeds.claims[chosen];
  const { differences, colour, margin } = claim;
  const order = [...differences.slice(first), ...differences.slice(0, first)];
  const numbers = differences.map((_, k) => k + 1).slice(DATA.seeds.fewest - 1);
  const xlim = [numbers[0], numbers[numbers.length - 1]];
  const curve = (name, of) =>
    ({ name, x: numbers, y: part(claim[of], first), colour: INK, dashed: true });
  const lowest = Math.min(0, -margin, ...differences);
  const highest = Math.max(0, margin, ...differences);
  const space = 0.1 * (highest - lowest);
  const ylim = [lowest - space, highest + space];
  const axes = { ylabel: "points", ylim, level: [0, "no difference"] };
  const { mean, low, high } = judged(claim, seeds, first);
  return [
    {
      ...axes,
      kind: "dots",
      title: claim.of.join(" minus "),
      groups: [
        {
          name: counted(seeds, "seed"),
          values: order.slice(0, seeds),
          colour,
          interval: Number.isNaN(low) ? null : [low, mean, high],
        },
        { name: "seeds not used", values: order.slice(seeds), colour: UNUSED, interval: null },
      ],
    },
    curves("the mean and its 95 % interval", {
      ...axes, xlabel: "seeds", xlim, cursor: seeds,
      lines: [
        { ...curve("mean", "mean"), colour, dashed: false },
        curve("95 % interval", "low"),
        curve("", "high"),
        ...(margin ? [marginLine(xlim, margin)] : []),
      ],
    }),
  ];
}

// Both sides of a margin as one line with a gap.
function marginLine([left, right], margin) {
  const x = [left, right, NaN, left, right];
  const y = [-margin, -margin, NaN, margin, margin];
  return { name: `margin of ${margin} points`, x, y, colour: MARGIN_COLOUR, dashed: true };
}

function seedsSentence({ claim: chosen, seeds, first }) {
  const claim = DATA.seeds.claims[chosen];
  const { mean, low, high, p, opposite, verdict } = judged(claim, seeds, first);
  const says = `The claim is ${claim.verdicts[verdict]}.`;
  if (Number.isNaN(p)) return `Mean ${mean.toFixed(1)} points. ${says}`;
  const interval = `[${low.toFixed(1)}, ${high.toFixed(1)}]`;
  const tests = `p of the claim ${p.toPrecision(2)}, of its opposite ${opposite.toPrecision(2)}`;
  return `Mean ${mean.toFixed(1)} ${interval} points; ${tests}. ${says}`;
}

// What the claim's tests say with so many seeds, beginning with that one.
function judged(claim, seeds, first) {
  const names = ["mean", "low", "high", "p", "opposite", "verdict"];
  const k = seeds - DATA.seeds.fewest;
  return Object.fromEntries(names.map((name) => [name, part(claim[name], first, k)[0]]));
}

// --- charts ------------------------------------------------------------------------------------

function model(name) {
  return DATA.models.find((of) => of.name === name);
}

function image(title, { shape }, pixels) {
  return { kind: "image", title, height: shape[1], width: shape[2], pixels };
}

function bars(title, values, colour) {
  const axis = { low: 0, high: 1, ylabel: "probability" };
  return { kind: "bars", title, labels: DATA.classes, values, colours: [colour], ...axis };
}

function answer(of, answers, epoch, ...place) {
  return bars(of.label, shares(of, answers, epoch, ...place), of.colour);
}

// A model's probabilities of the classes. Before the first epoch every method is the backbone.
function shares(of, answers, epoch, ...place) {
  const found = of === DATA.models[0] ? part(answers[METHODS[0].name], 0, ...place)
    : part(answers[of.name], epoch, ...place);
  return Float32Array.from(found, (level) => level / LEVELS);
}

function heat(title, { shape, values }, chart) {
  const [rows, columns] = shape;
  return { kind: "heat", title, rows, columns, values, texts: null, ...chart };
}

function curves(title, chart) {
  return { kind: "curves", title, ...chart };
}

function line({ label, colour }, x, y) {
  return { name: label, x, y, colour, dashed: false };
}

function yAxis(measure, values) {
  const isShare = measure === "accuracy" || measure === "share";
  return {
    ylabel: UNITS[measure],
    ylim: [0, isShare ? 1 : Math.max(...values)],
    level: measure === "accuracy" ? [1 / CLASSES, "chance"] : null,
  };
}

function ticksOf(values) {
  return Array.from(values, (value, k) => [k, String(value)]);
}

// --- arrays and words --------------------------------------------------------------------------

// Arrays come as their shape and their bytes; see `_array` in explorer.py.
function unpacked(value) {
  if (Array.isArray(value)) return value.map(unpacked);
  if (value === null || typeof value !== "object") return value;
  const { shape, uint8, float32 } = value;
  if (uint8) return { shape, values: bytes(uint8) };
  if (float32) return { shape, values: new Float32Array(bytes(float32).buffer) };
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, unpacked(inner)]));
}

function bytes(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

// The values of an array at its first indices.
function part({ shape, values }, ...indices) {
  let size = values.length;
  let start = 0;
  indices.forEach((index, axis) => {
    size /= shape[axis];
    start += index * size;
  });
  return values.subarray(start, start + size);
}

function counted(n, unit) {
  return `${n} ${unit}${n === 1 ? "" : "s"}`;
}

// --- controls ----------------------------------------------------------------------------------

// What a form's controls say: numbers for sliders, texts for all others.
function entries(form) {
  const found = Object.fromEntries(new FormData(form));
  for (const slider of sliders(form)) found[slider.name] = slider.valueAsNumber;
  return found;
}

function sliders(form) {
  return form.querySelectorAll("input[type=range]");
}

function follow(form, { scene, sentence }) {
  for (const slider of sliders(form)) {
    const words = WORDS[slider.name](slider.valueAsNumber, Number(slider.max));
    slider.setAttribute("aria-valuetext", words);
    slider.nextElementSibling.textContent = words;
  }
  const values = entries(form);
  showScene(form.querySelector(".rtl-scene"), scene(values));
  if (sentence) form.querySelector(".says").textContent = sentence(values);
}

for (const [id, section] of Object.entries(SECTIONS)) {
  const form = document.getElementById(id);
  form.addEventListener("input", () => follow(form, section));
  form.addEventListener("submit", (event) => event.preventDefault());
  follow(form, section);
}
replayed(document.getElementById("race"));
placed(document.getElementById("ball").elements);

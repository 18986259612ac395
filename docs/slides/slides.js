/* Cuts what is taller than a screen into several slides, then starts reveal.js.

How tall a formula, a figure or a table is, only the browser knows. It is measured once, on slides of
1280 x 720 whatever the window is; reveal.js scales them afterwards. */

"use strict";

const WIDTH = 1280;
const HEIGHT = 720;
const PADDING = 96; // of a slide, left and right together
const PIECES = [
  ".jp-RenderedMarkdown > *",
  ".code",
  ".jp-RenderedText",
  ".jp-RenderedHTML table",
  ".jp-OutputArea-output > img",
].join(", ");
const LEAST = { IMG: 0.62, TABLE: 0.8 }; // of its size, so that it stays beside what introduces it
const ALONE = 0.6; // of its size, alone on a slide; a table loses rows then
const SMALL = 14; // letters of a table in pixels
const SHORT = 24; // letters of a table's cell that stay in one line

start();

async function start() {
  await MathJax.startup.promise;
  await MathJax.typesetPromise();
  await Promise.all([...document.images].map((image) => image.decode()));
  await document.fonts.ready;
  const deck = document.querySelector(".reveal");
  deck.classList.add("measured");
  deck.querySelectorAll(".jp-CodeCell").forEach(join);
  deck.querySelectorAll("td, tbody th").forEach(keep);
  deck.querySelectorAll(".slides > section > section").forEach(lay);
  deck.classList.remove("measured");
  await Reveal.initialize({
    width: WIDTH,
    height: HEIGHT,
    margin: 0,
    center: false,
    hash: true,
    navigationMode: "linear", // the arrow keys leave no slide out
    slideNumber: "c/t",
    transition: "none",
    plugins: [RevealNotes],
  });
}

/* Code stays together with the text that it prints. */
function join(cell) {
  const code = cell.querySelector(".jp-InputArea-editor .highlight");
  if (!code) return;
  const joined = document.createElement("div");
  joined.className = "code";
  cell.prepend(joined);
  joined.append(code, ...cell.querySelectorAll(".jp-RenderedText"));
}

/* Short values stay in one line. */
function keep(cell) {
  if (cell.textContent.trim().length < SHORT) cell.style.whiteSpace = "nowrap";
}

/* A slide's pieces, on as many slides as they need. */
function lay(slide) {
  const notes = slide.querySelectorAll("aside");
  const found = [...slide.querySelectorAll(PIECES)];
  const pieces = found.filter((piece) => !piece.parentElement.closest("aside, .code"));
  const heading = pieces[0]?.matches("h1, h2, h3") ? pieces.shift() : null;
  slide.replaceChildren(...(heading ? [heading] : []), ...notes);
  let now = slide;
  let empty = true;
  while (pieces.length) {
    const piece = pieces.shift();
    now.append(piece);
    narrow(piece);
    if (fits(now) || (!empty && shrink(piece, now, LEAST))) {
      empty = false;
    } else if (empty) {
      pieces.unshift(...squeeze(piece, now));
      empty = false;
    } else {
      pieces.unshift(piece);
      now = next(now, heading);
      empty = true;
    }
  }
}

function fits(slide) {
  return height(slide) <= HEIGHT;
}

function height(part) {
  return part.getBoundingClientRect().height;
}

/* A further slide below the same heading. */
function next(slide, heading) {
  const further = document.createElement("section");
  if (heading) {
    const again = heading.cloneNode(true);
    again.classList.add("again");
    again.removeAttribute("id");
    further.append(again);
  }
  slide.after(further);
  return further;
}

/* Smaller letters for what is wider than the slide; values in two lines before they get tiny. */
function narrow(piece) {
  const size = fontSize(piece);
  resize(piece, size * room(piece));
  if (fontSize(piece) >= Math.min(size, SMALL)) return;
  piece.querySelectorAll("[style]").forEach((cell) => cell.style.removeProperty("white-space"));
  resize(piece, SMALL);
  resize(piece, SMALL * room(piece));
}

/* The share of its width for which a slide has room, 1 at most. */
function room(piece) {
  return Math.min(1, (WIDTH - PADDING) / Math.max(piece.scrollWidth, piece.offsetWidth));
}

function fontSize(piece) {
  return parseFloat(getComputedStyle(piece).fontSize);
}

function resize(piece, size) {
  piece.style.fontSize = `${size}px`;
}

/* A smaller picture or table, if it fits so; else it stays as it is. */
function shrink(piece, slide, least) {
  const picture = piece.tagName === "IMG" ? piece : piece.querySelector("img");
  if (picture) {
    const left = height(picture) - (height(slide) - HEIGHT);
    if (left < height(picture) * least.IMG) return false;
    picture.style.maxHeight = `${Math.floor(left)}px`;
    return true;
  }
  if (piece.tagName !== "TABLE") return false;
  const size = fontSize(piece);
  const smallest = Math.max(size * least.TABLE, SMALL);
  for (let now = size; !fits(slide) && now > smallest; now -= 0.5) resize(piece, now);
  if (!fits(slide)) resize(piece, size);
  return fits(slide);
}

/* What does not fit even alone on a slide: smaller, or a table cut. Returns what is left over. */
function squeeze(piece, slide) {
  if (shrink(piece, slide, { IMG: 0, TABLE: ALONE })) return [];
  if (piece.tagName === "TABLE") return [cut(piece, slide)];
  while (!fits(slide)) resize(piece, fontSize(piece) * 0.95);
  return [];
}

/* Takes the rows off a table that do not fit. Returns a table of them, with the same head. */
function cut(table, slide) {
  const rest = table.cloneNode(true);
  const [rows, others] = [table, rest].map((whole) => [...whole.tBodies[0].rows]);
  let kept = rows.length;
  while (kept > 1 && !fits(slide)) rows[--kept].remove();
  others.slice(0, kept).forEach((row) => row.remove());
  carry(rows.slice(0, kept), others[kept]);
  return rest;
}

/* A cell that reaches over several rows is cut where they are. */
function carry(rows, first) {
  const copies = [];
  rows.forEach((row, k) => {
    for (const cell of row.cells) {
      const left = cell.rowSpan - (rows.length - k);
      if (left > 0) {
        const copy = cell.cloneNode(true);
        copy.rowSpan = left;
        cell.rowSpan -= left;
        copies.push(copy);
      }
    }
  });
  first.prepend(...copies);
}

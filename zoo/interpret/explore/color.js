"use strict";

// Colors of weights: viridis, which readers with any color vision can order, reversed on a light page so that more
// weight is always more contrast.

const VIRIDIS = [
  [68, 1, 84], [72, 36, 117], [65, 68, 135], [53, 95, 141], [42, 120, 142], [33, 145, 140], [34, 168, 132],
  [68, 191, 112], [122, 209, 81], [189, 223, 38], [253, 231, 37],
];
const darkTheme = window.matchMedia("(prefers-color-scheme: dark)");

function viridis(share) {
  const place = Math.min(1, Math.max(0, share)) * (VIRIDIS.length - 1);
  const below = Math.min(VIRIDIS.length - 2, Math.floor(place));
  const part = place - below;
  return VIRIDIS[below].map((value, i) => Math.round(value + part * (VIRIDIS[below + 1][i] - value)));
}

// The share of a weight of the largest one, by its square root: small weights stay visible.
function shareOf(weight, most) {
  return most > 0 ? Math.sqrt(Math.abs(weight) / most) : 0;
}

// [red, green, blue, opacity] on the page.
function onPage(share) {
  return [...viridis(darkTheme.matches ? share : 1 - share), Math.min(1, 1.6 * share)];
}

// [red, green, blue, opacity] over an image, which stays visible where there is little attention.
function onImage(share) {
  return [...viridis(share), 0.85 * share];
}

// The color of text on a weight.
function textOn(share) {
  if (share < 0.35) return "";
  const [red, green, blue] = viridis(darkTheme.matches ? share : 1 - share);
  return 0.299 * red + 0.587 * green + 0.114 * blue > 140 ? "#111" : "#fff";
}

function css([red, green, blue, opacity]) {
  return `rgb(${red} ${green} ${blue} / ${opacity.toFixed(3)})`;
}

// Paint shares, row by row, on a canvas of one pixel each.
function paint(canvas, columns, rows, shares, color) {
  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  const table = Uint8ClampedArray.from(Array.from({ length: 256 }, (_, i) => color(i / 255)).flat(), (value, i) =>
    (i % 4 === 3 ? 255 * value : value));
  const [pixels, colors] = [new Uint32Array(image.data.buffer), new Uint32Array(table.buffer)];
  for (let i = 0; i < pixels.length; i++) pixels[i] = colors[Math.round(255 * shares[i])];
  context.putImageData(image, 0, 0);
}

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

"use strict";

// The positions of one side of a map: tokens of a text, patches of an image, fields of a spectrogram, nodes of
// a graph.

const NAMED_PLACES = 80; // places up to which their names are on the page
const NAMES = new Map([["\n", "↵"], ["\t", "⇥"], ["", "∅"]]);

class PositionsView {
  // events: {hover(index or null), pick(index), leave()}
  constructor(parts, label, events) {
    this.events = events;
    this.parts = [];
    this.element = element("div", { class: "positions", tabindex: "0", role: "application", "aria-label": label });
    let start = 0;
    for (const part of parts) {
      const View = { tokens: TokensView, places: PlacesView }[part.kind] ?? PatchesView;
      const view = new View(part, start);
      this.parts.push(view);
      this.element.append(view.element);
      start += view.count;
    }
    this.count = start;
    this.element.addEventListener("pointermove", (event) => event.pointerType === "mouse" && events.hover(this.find(event)));
    this.element.addEventListener("pointerleave", () => events.hover(null));
    this.element.addEventListener("click", (event) => this.find(event) !== null && events.pick(this.find(event)));
  }

  find(event) {
    for (const part of this.parts) {
      const index = part.find(event);
      if (index !== null) return index;
    }
    return null;
  }

  partOf(index) {
    return this.parts.find((part) => index < part.start + part.count);
  }

  label(index) {
    return this.partOf(index).label(index);
  }

  anchor(index) {
    return this.partOf(index).anchor(index);
  }

  // Color the positions by weights [count], and mark one of them.
  show(weights, active, signed) {
    let most = 0;
    for (const weight of weights) most = Math.max(most, Math.abs(weight));
    for (const part of this.parts) part.show(weights, most, active);
    this.element.classList.toggle("signed", Boolean(signed));
    return most;
  }

  // The position that an arrow key leads to.
  moved(index, key) {
    if (index === null) return 0;
    if (key === "Home") return 0;
    if (key === "End") return this.count - 1;
    const step = this.partOf(index).step(index, key);
    return Math.min(this.count - 1, Math.max(0, index + step));
  }
}

class TokensView {
  constructor(part, start) {
    this.start = start;
    this.count = part.texts.length;
    this.texts = part.texts.map((text) => NAMES.get(text) ?? (text.trim() || "␣"));
    this.element = element("div", { class: "tokens" });
    this.spans = this.texts.map((text, i) => {
      const span = element("bdi", { class: "token" }, text.length > 40 ? `${text.slice(0, 40)}…` : text);
      span.dataset.index = start + i;
      return span;
    });
    this.element.append(...this.spans);
  }

  find(event) {
    const span = event.target.closest(".token");
    return span && this.element.contains(span) ? Number(span.dataset.index) : null;
  }

  label(index) {
    return `“${this.texts[index - this.start]}”`;
  }

  anchor(index) {
    return this.spans[index - this.start].getBoundingClientRect();
  }

  show(weights, most, active) {
    this.spans.forEach((span, i) => {
      const index = this.start + i;
      const share = shareOf(weights[index], most);
      span.style.background = share > 0.02 ? css(onPage(share)) : "";
      span.style.color = share > 0.02 ? textOn(share) : "";
      span.classList.toggle("active", index === active);
    });
  }

  step(index, key) {
    return key === "ArrowLeft" || key === "ArrowUp" ? -1 : 1;
  }
}

class PatchesView {
  constructor(part, start) {
    this.start = start;
    this.part = part;
    [this.rows, this.columns] = part.grid;
    this.count = part.count; // fewer than the grid has if the last tokens of an image are not read
    const [left, top, right, bottom] = part.box;
    this.canvas = element("canvas", { class: "weights" });
    this.mark = element("div", { class: "mark", hidden: "" });
    this.grid = element("div", { class: "grid" }, this.canvas, this.mark);
    Object.assign(this.grid.style, {
      left: `${100 * left}%`, top: `${100 * top}%`, width: `${100 * (right - left)}%`, height: `${100 * (bottom - top)}%`,
    });
    const image = element("img", { src: part.image, alt: part.kind === "audio" ? "spectrogram" : "the input image" });
    if (part.size[0] <= 160 && part.kind === "image") image.classList.add("small");
    this.field = element("div", { class: `field ${part.kind}` }, image, this.grid);
    this.element = element("div", { class: `patches ${part.kind}` }, this.field);
    if (part.tiles) this.addLines();
    if (part.kind === "audio") this.addAxes();
    else this.field.style.aspectRatio = `${part.size[0]} / ${part.size[1]}`;
  }

  addAxes() {
    const seconds = this.part.seconds;
    const step = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60].find((each) => seconds / each <= 8) ?? 120;
    for (let time = 0; time <= seconds; time += step) {
      const tick = element("span", { class: "time" }, `${Number(time.toFixed(2))} s`);
      tick.style.left = `${(100 * time) / seconds}%`;
      this.field.append(tick);
    }
    for (const [place, hertz] of this.part.hertz.filter((_, i) => i % 2)) {
      const tick = element("span", { class: "hertz" }, hertz >= 1000 ? `${hertz / 1000} kHz` : `${hertz} Hz`);
      tick.style.bottom = `${100 * place}%`;
      this.field.append(tick);
    }
  }

  // Spectrograms have their first row of fields at the bottom.
  shownRow(row) {
    return this.part.kind === "audio" ? this.rows - 1 - row : row;
  }

  find(event) {
    const box = this.grid.getBoundingClientRect();
    const column = Math.floor(((event.clientX - box.left) / box.width) * this.columns);
    const row = Math.floor(((event.clientY - box.top) / box.height) * this.rows);
    if (column < 0 || row < 0 || column >= this.columns || row >= this.rows) return null;
    const index = this.shownRow(row) * this.columns + column;
    return index < this.count ? this.start + index : null;
  }

  place(index) {
    const row = Math.floor((index - this.start) / this.columns);
    return [this.shownRow(row), (index - this.start) % this.columns];
  }

  label(index) {
    const [row, column] = this.place(index);
    if (this.part.tiles) return this.tileLabel(row, column);
    const name = this.part.name ? `${this.part.name}, ` : "";
    if (this.part.kind === "image") return `${name}patch in row ${row + 1}, column ${column + 1}`;
    const [left, , right] = this.part.box;
    const at = (edge) => (this.part.seconds * (left + ((right - left) * edge) / this.columns)).toFixed(2);
    const band = this.rows > 1 ? `, band ${this.rows - row} of ${this.rows}` : "";
    return `${at(column)} to ${at(column + 1)} s${band}`;
  }

  // Of the patches of tiles, whose last column stands for the ends of rows.
  tileLabel(row, column) {
    if (column === this.columns - 1) return `end of row ${row + 1} of the tiles`;
    const { size, start, columns } = this.part.tiles;
    const [y, x] = [row + start[0], column + start[1]];
    const tile = Math.floor(y / size[0]) * columns + Math.floor(x / size[1]) + 1;
    return `tile ${tile}, patch in row ${(y % size[0]) + 1}, column ${(x % size[1]) + 1}`;
  }

  // Lines between tiles.
  addLines() {
    const { size, start } = this.part.tiles;
    const counts = [this.rows, this.columns - 1];
    counts.forEach((count, axis) => {
      for (let at = size[axis] - (start[axis] % size[axis]); at < count; at += size[axis]) {
        const line = element("div", { class: `between ${axis ? "columns" : "rows"}` });
        line.style[axis ? "left" : "top"] = `${(100 * at) / (count + axis)}%`;
        this.grid.append(line);
      }
    });
  }

  anchor(index) {
    const [row, column] = this.place(index);
    const box = this.grid.getBoundingClientRect();
    const [width, height] = [box.width / this.columns, box.height / this.rows];
    return new DOMRect(box.left + column * width, box.top + row * height, width, height);
  }

  show(weights, most, active) {
    const shares = new Float32Array(this.rows * this.columns);
    for (let row = 0; row < this.rows; row++) {
      for (let column = 0; column < this.columns; column++) {
        const index = this.shownRow(row) * this.columns + column;
        if (index < this.count) shares[row * this.columns + column] = shareOf(weights[this.start + index], most);
      }
    }
    paint(this.canvas, this.columns, this.rows, shares, onImage);
    const inside = active !== null && active >= this.start && active < this.start + this.count;
    this.mark.hidden = !inside;
    if (!inside) return;
    const [row, column] = this.place(active);
    Object.assign(this.mark.style, {
      left: `${(100 * column) / this.columns}%`, top: `${(100 * row) / this.rows}%`,
      width: `${100 / this.columns}%`, height: `${100 / this.rows}%`,
    });
  }

  step(index, key) {
    const [row, column] = this.place(index);
    const up = this.part.kind === "audio" ? this.columns : -this.columns;
    if (key === "ArrowLeft") return column > 0 || row > 0 || this.start > 0 ? -1 : 0;
    if (key === "ArrowRight") return 1;
    if (key === "ArrowUp") return row > 0 ? up : this.part.kind === "image" ? -(index - this.start) - 1 : 0;
    return row < this.rows - 1 ? -up : 0;
  }
}

// Nodes of a graph with its edges, or points of a cloud.
class PlacesView {
  constructor(part, start) {
    this.start = start;
    this.texts = part.texts;
    this.places = part.places;
    this.count = part.texts.length;
    const radius = Math.min(2.4, Math.max(0.5, 14 / Math.sqrt(this.count)));
    const percents = ([x, y]) => [100 * x, 100 * y];
    const lines = part.edges.map(([from, to]) => {
      const [[x1, y1], [x2, y2]] = [percents(part.places[from]), percents(part.places[to])];
      return `<line x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}"/>`;
    });
    const named = this.count <= NAMED_PLACES; // their texts are set below, as text
    const circles = part.places.map((place) => {
      const [x, y] = percents(place);
      const label = named ? `<text x="${x}" y="${y + 0.35 * radius}" font-size="${radius}"></text>` : "";
      return `<circle cx="${x}" cy="${y}" r="${radius}"/>${label}`;
    });
    this.element = element("div", { class: "places" });
    this.element.innerHTML = `<svg viewBox="-3 -3 106 106" aria-hidden="true">${lines.join("")}${circles.join("")}</svg>`; // numbers alone
    this.circles = [...this.element.querySelectorAll("circle")];
    this.circles.forEach((circle, i) => (circle.dataset.index = start + i));
    this.labels = [...this.element.querySelectorAll("text")];
    this.labels.forEach((label, i) => (label.textContent = this.texts[i].length > 12 ? "" : this.texts[i]));
  }

  // The nearest place, where it is near.
  find(event) {
    const box = this.element.firstChild.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top].map((at, i) => (106 * at) / [box.width, box.height][i] - 3);
    let [nearest, least] = [null, 16];
    this.places.forEach((place, i) => {
      const distance = (100 * place[0] - x) ** 2 + (100 * place[1] - y) ** 2;
      if (distance < least) [nearest, least] = [this.start + i, distance];
    });
    return nearest;
  }

  label(index) {
    return this.texts[index - this.start];
  }

  anchor(index) {
    return this.circles[index - this.start].getBoundingClientRect();
  }

  show(weights, most, active) {
    this.circles.forEach((circle, i) => {
      const share = shareOf(weights[this.start + i], most);
      circle.style.fill = share > 0.02 ? css(onPage(share)) : "";
      if (this.labels[i]) this.labels[i].style.fill = share > 0.02 ? textOn(share) : "";
      circle.classList.toggle("active", this.start + i === active);
    });
  }

  step(index, key) {
    return key === "ArrowLeft" || key === "ArrowUp" ? -1 : 1;
  }
}

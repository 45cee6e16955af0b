"use strict";

// The overview: a small image of the map of each head of a group, layer by layer, or sorted.

class HeadsView {
  // events: {open(layer, head), enter()}: indices among the layers of the group and the heads of the layer
  constructor(group, thumbnails, events) {
    this.group = group;
    this.events = events;
    this.cells = group.layers.flatMap((layer, l) => layer.heads.map((head, h) => ({
      layer: l, head: h, number: layer.number, name: head, entropy: layer.entropy?.[h] ?? null,
      distance: layer.distance?.[h] ?? null, role: layer.roles[h],
    })));
    this.thumbnails = thumbnails;
    this.sort = "layer";
    this.hovered = null;
    this.canvas = element("canvas");
    this.hint = element("p", { class: "hint", "aria-live": "polite" });
    this.scroll = element("div", {
      class: "overview", tabindex: "0", role: "application",
      "aria-label": `Heads of ${group.name}: arrow keys choose one, Enter goes to its positions`,
    }, this.canvas);
    this.element = element("div", { class: "heads" }, this.scroll, this.hint);
    this.canvas.addEventListener("pointermove", (event) => this.hover(this.find(event)));
    this.canvas.addEventListener("pointerleave", () => this.hover(null));
    this.canvas.addEventListener("click", (event) => {
      const cell = this.find(event);
      if (cell) events.open(cell.layer, cell.head);
    });
    this.scroll.addEventListener("keydown", (event) => this.key(event));
    this.makeAtlas();
  }

  // All thumbnails on one canvas of their own size, painted again for another theme.
  makeAtlas() {
    const [rows, columns] = this.group.layers[0].thumbnail;
    this.size = [rows, columns];
    this.perRow = 64;
    const across = Math.min(this.perRow, this.cells.length);
    const shares = new Float32Array(across * columns * Math.ceil(this.cells.length / across) * rows);
    this.perRow = across;
    this.cells.forEach((cell, i) => {
      cell.atlas = i;
      for (let y = 0; y < rows; y++) {
        for (let x = 0; x < columns; x++) {
          const to = (Math.floor(i / across) * rows + y) * across * columns + (i % across) * columns + x;
          shares[to] = this.thumbnails[(i * rows + y) * columns + x] / 255;
        }
      }
    });
    this.atlas = element("canvas");
    paint(this.atlas, across * columns, shares.length / (across * columns), shares, onPage);
  }

  // Lay the cells out for the width of the page, and paint them.
  show(selected) {
    this.selected = selected;
    const width = Math.max(160, this.scroll.clientWidth - 2);
    const layered = this.sort === "layer";
    const gutter = layered ? 26 : 0;
    const heads = layered ? Math.max(...this.group.layers.map((layer) => layer.heads.length)) : 16;
    this.cell = Math.min(46, Math.max(11, Math.floor((width - gutter) / heads)));
    const columns = Math.max(1, Math.floor((width - gutter) / this.cell));
    const key = (cell) => (this.sort === "role" ? cell.role.replace(/ -?\d+\.\d\d$/, "") : cell[this.sort]);
    const order = [...this.cells];
    if (!layered) {
      order.sort((a, b) => (key(a) === key(b) ? 0 : key(a) === null || key(a) === "" ? 1 : key(b) === null || key(b) === "" ? -1
        : key(a) < key(b) ? -1 : 1));
    }
    this.labels = [];
    let [x, y, group] = [0, 0, null];
    for (const cell of order) {
      const mine = layered ? cell.layer : this.sort === "role" ? key(cell) : "all";
      if (mine !== group) {
        if (group !== null) y += this.cell + (layered ? 0 : 6);
        if (this.sort === "role") {
          this.labels.push([0, y + 13, mine || "no role"]);
          y += 18;
        } else if (layered) {
          this.labels.push([0, y + this.cell / 2 + 4, String(cell.number)]);
        }
        [x, group] = [0, mine];
      } else if (!layered && x === columns) {
        [x, y] = [0, y + this.cell];
      }
      [cell.x, cell.y] = [gutter + x * this.cell, y];
      x += 1;
    }
    this.order = order;
    this.columns = layered ? heads : columns;
    this.canvasSize = [gutter + (layered ? heads : columns) * this.cell, y + this.cell + 2];
    this.paintCells();
    this.paint();
    this.scrollToChosen();
  }

  choose(selected) {
    this.selected = selected;
    this.paint();
    this.scrollToChosen();
  }

  scrollToChosen() {
    const { scroll, cell } = this;
    const { x, y } = this.chosen();
    if (y < scroll.scrollTop || y + cell > scroll.scrollTop + scroll.clientHeight) scroll.scrollTop = y - scroll.clientHeight / 2;
    if (x < scroll.scrollLeft || x + cell > scroll.scrollLeft + scroll.clientWidth) scroll.scrollLeft = x - scroll.clientWidth / 2;
  }

  // The cells without outlines, on a canvas of their own.
  paintCells() {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = this.canvasSize;
    this.cellsCanvas = element("canvas");
    for (const canvas of [this.canvas, this.cellsCanvas]) [canvas.width, canvas.height] = [width * ratio, height * ratio];
    [this.canvas.style.width, this.canvas.style.height] = [`${width}px`, `${height}px`];
    this.canvas.getContext("2d").scale(ratio, ratio);
    const context = this.cellsCanvas.getContext("2d");
    const style = getComputedStyle(document.documentElement);
    context.scale(ratio, ratio);
    context.imageSmoothingEnabled = false;
    context.font = "11px system-ui, sans-serif";
    context.fillStyle = style.getPropertyValue("--soft");
    for (const [x, y, text] of this.labels) context.fillText(text, x, y);
    context.fillStyle = style.getPropertyValue("--empty");
    const [rows, columns] = this.size;
    const inner = this.cell - 3;
    for (const cell of this.cells) {
      context.fillRect(cell.x, cell.y, inner, inner);
      context.drawImage(this.atlas, (cell.atlas % this.perRow) * columns, Math.floor(cell.atlas / this.perRow) * rows,
        columns, rows, cell.x, cell.y, inner, inner);
    }
  }

  paint() {
    const context = this.canvas.getContext("2d");
    const style = getComputedStyle(document.documentElement);
    const inner = this.cell - 3;
    context.clearRect(0, 0, ...this.canvasSize);
    context.drawImage(this.cellsCanvas, 0, 0, ...this.canvasSize);
    const outline = (cell, color, width) => {
      context.strokeStyle = style.getPropertyValue(color);
      context.lineWidth = width;
      context.strokeRect(cell.x, cell.y, inner, inner);
    };
    const chosen = this.chosen();
    if (this.hovered) outline(this.hovered, "--ink", 1.5);
    if (chosen) outline(chosen, "--accent", 3);
  }

  chosen() {
    const [layer, head] = this.selected;
    return this.cells.find((cell) => cell.layer === layer && cell.head === head);
  }

  find(event) {
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    return this.cells.find((c) => x >= c.x && x < c.x + this.cell && y >= c.y && y < c.y + this.cell) ?? null;
  }

  hover(cell) {
    if (cell === this.hovered) return;
    this.hovered = cell;
    this.hint.textContent = cell ? describeHead(cell) : "";
    this.canvas.style.cursor = cell ? "pointer" : "";
    this.paint();
  }

  key(event) {
    if (event.key === "Enter") {
      event.preventDefault();
      this.events.enter();
      return;
    }
    const at = this.order.indexOf(this.chosen());
    const horizontal = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const vertical = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    let next = { Home: 0, End: this.order.length - 1 }[event.key];
    if (horizontal) next = at + horizontal;
    if (vertical) {  // the nearest cell of the next row
      const from = this.order[at];
      const rows = this.order.filter((cell) => vertical * (cell.y - from.y) > 0);
      if (!rows.length) return;
      const y = vertical > 0 ? Math.min(...rows.map((c) => c.y)) : Math.max(...rows.map((c) => c.y));
      const row = rows.filter((cell) => cell.y === y);
      next = this.order.indexOf(row.reduce((a, b) => (Math.abs(b.x - from.x) < Math.abs(a.x - from.x) ? b : a)));
    }
    if (next === undefined) return;
    event.preventDefault();
    const cell = this.order[Math.min(this.order.length - 1, Math.max(0, next))];
    this.events.open(cell.layer, cell.head);
    this.hint.textContent = describeHead(cell);
  }
}

function describeHead(cell) {
  const parts = [`layer ${cell.number}, head ${cell.name}`];
  if (cell.role) parts.push(cell.role);
  if (cell.entropy !== null) parts.push(`entropy ${cell.entropy.toFixed(2)} nats`);
  if (cell.distance !== null) parts.push(`mean distance ${cell.distance.toFixed(1)}`);
  return parts.join(" · ");
}

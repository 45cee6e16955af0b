"use strict";

// One model: its heads on one side, and the positions of its input, colored by the chosen head, on the other.

const ARCS = 12; // of one position
const ALL_ARCS = 80; // positions up to which the arcs of all are shown together
const NAMED = 6; // positions in a sentence
const ROWS = 5; // keys of each query in the table
const MATRIX = 420; // pixels
const KEPT = 8; // layers that stay decompressed

class Panel {
  // page: {selected(panel), hovered(panel, active, side)}
  constructor(model, number, page) {
    this.model = model;
    this.number = number;
    this.page = page;
    this.layers = new Map();
    this.state = { group: 0, layer: 0, head: 0 };
    this.active = null; // {side: "queries" or "keys", index}
    this.held = null;
    this.build();
  }

  get group() {
    return this.model.groups[this.state.group];
  }

  get layer() {
    return this.group.layers[this.state.layer];
  }

  build() {
    this.groups = choice("Maps", this.model.groups.map((group, i) => [i, group.name]), (value) =>
      this.select({ group: Number(value), layer: 0, head: 0 }));
    this.sorts = choice("Sort heads by", [["layer", "layer"]], (value) => {
      this.heads.sort = value;
      this.heads.show([this.state.layer, this.state.head]);
    });
    this.direction = choice("A position", [["queries", "attends to"], ["keys", "is attended to by"]], () => {
      this.active = this.active && { ...this.active, side: this.direction.select.value };
      this.held = this.held && { ...this.held, side: this.direction.select.value };
      this.show();
      if (this.held) this.page.selected(this);
    });
    this.groups.label.hidden = this.model.groups.length < 2;
    this.left = element("div", { class: "left" });
    this.title = element("h3", {});
    this.readout = element("p", { class: "readout", "aria-live": "polite" });
    this.views = element("div", { class: "views" });
    const fragment = element("div");
    fragment.innerHTML = '<svg class="arcs" aria-hidden="true"></svg>';
    this.arcs = fragment.firstChild;
    this.legend = element("p", { class: "legend" });
    this.without = element("code");
    this.matrix = new MatrixView((query, key) => this.hover("queries", query, key), (query) => this.pick("queries", query));
    this.table = details("This head as a table", () => this.headTable());
    this.all = details("All heads as a table", () => this.allTable());
    const notes = [];
    if (this.model.prediction) notes.push(element("p", { class: "note" }, `Prediction: ${this.model.prediction}`));
    if (this.model.missing.length) {
      const named = this.model.missing.slice(0, 8).join(", ") + (this.model.missing.length > 8 ? `, and ${this.model.missing.length - 8} more` : "");
      notes.push(element("p", { class: "note" }, `These layers have no attention weights, and so no map: ${named}.`));
    }
    this.element = element("section", { class: "panel", "aria-label": this.model.name },
      element("div", { class: "bar" }, element("h2", {}, element("bdi", {}, this.model.name)), ...notes,
        element("div", { class: "choices" }, this.groups.label, this.sorts.label, this.direction.label)),
      this.left,
      element("div", { class: "right" }, this.title, this.readout, this.views, this.legend,
        element("p", { class: "legend" }, "Does the output need this head? ", this.without)),
      element("div", { class: "below" }, this.matrix.element, this.table.element, this.all.element));
    this.element.addEventListener("keydown", (event) => event.key === "Escape" && this.release());
  }

  // Show another head; group, layer and head are indices. Returns when it is on the page.
  async select(state, quiet = false) {
    const next = { ...this.state, ...state };
    const group = this.model.groups[next.group];
    const changed = !this.heads || next.group !== this.state.group;
    const ticket = (this.ticket = {});
    const thumbnails = changed ? await inflate(group.thumbnails) : null;
    const maps = await this.load(group.layers[next.layer]);
    if (ticket !== this.ticket) return; // another head was chosen meanwhile
    this.state = next;
    this.groups.select.value = next.group;
    if (changed) this.openGroup(thumbnails);
    this.map = maps.head(next.head);
    if (changed) this.heads.show([next.layer, next.head]);
    else this.heads.choose([next.layer, next.head]);
    this.show();
    this.table.refresh();
    if (!quiet) this.page.selected(this);
    // the next layer that arrow keys lead to
    const following = this.group.layers[next.layer + 1];
    if (following) setTimeout(() => this.load(following), 50);
  }

  // The maps of a layer, of which the last few that were used are kept.
  load(layer) {
    const maps = this.layers.get(layer.block) ?? inflate(layer.block).then((bytes) => new LayerMaps(layer, bytes));
    this.layers.delete(layer.block);
    this.layers.set(layer.block, maps);
    if (this.layers.size > KEPT) this.layers.delete(this.layers.keys().next().value);
    return maps;
  }

  openGroup(thumbnails) {
    const group = this.group;
    this.active = this.held = null;
    this.heads = new HeadsView(group, thumbnails, {
      open: (layer, head) => this.select({ layer, head }),
      enter: () => this.queries.element.focus(),
    });
    this.left.replaceChildren(this.heads.element);
    const sorts = ["layer", ...["role", "entropy", "distance"].filter((name) =>
      group.layers.some((layer) => (name === "role" ? layer.roles.some(Boolean) : layer[name])))];
    this.sorts.fill(sorts.map((name) => [name, name]));
    this.heads.sort = this.sorts.select.value;
    this.direction.label.hidden = !group.same;
    this.queries = this.positionsView(group.queries, group.same ? "Positions" : "Queries", "queries");
    this.keys = group.same ? this.queries : this.positionsView(group.keys, "Keys", "keys");
    const views = group.same ? [this.queries] : [this.queries, this.keys];
    const named = (view, name) => (group.same ? [view.element] : [element("h4", {}, name), view.element]);
    this.views.replaceChildren(
      ...views.map((view, i) => element("div", { class: "side" }, ...named(view, i ? "is attended to" : "attends"))),
      this.arcs);
    this.views.classList.toggle("pair", !group.same);
    this.all.refresh();
  }

  positionsView(index, label, side) {
    const asked = () => (this.group.same ? this.direction.select.value : side);
    const view = new PositionsView(this.model.positions[index], `${label}: arrow keys move, Enter holds, Escape releases`, {
      hover: (at) => this.hover(asked(), at),
      pick: (at) => this.pick(asked(), at),
    });
    view.element.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        if (this.active) this.pick(this.active.side, this.active.index);
      } else if (/^(Arrow|Home$|End$)/.test(event.key)) {
        event.preventDefault();
        const at = this.active && this.active.side === asked() ? this.active.index : null;
        this.held = null;
        this.hover(asked(), view.moved(at, event.key));
      }
    });
    return view;
  }

  hover(side, index, other = null) {
    if (this.held) return;
    this.setActive(index === null ? null : { side, index, other });
  }

  pick(side, index) {
    const same = this.held && this.held.side === side && this.held.index === index;
    this.held = same ? null : { side, index };
    this.setActive(this.held ?? { side, index });
    this.page.selected(this);
  }

  release() {
    if (!this.active && !this.held) this.heads.scroll.focus();
    this.held = null;
    this.setActive(null);
    this.page.selected(this);
  }

  setActive(active, quiet = false) {
    const side = (active ?? this.active)?.side;
    this.active = active;
    this.show();
    if (!quiet && side) this.page.hovered(this, active, side);
  }

  // Show the active position of the chosen head, or what all positions receive.
  show() {
    const { map, active } = this;
    if (!map) return;
    const view = active && active.side === "keys" ? this.queries : this.keys;
    const own = active && active.side === "keys" ? this.keys : this.queries;
    const found = !active ? null : active.side === "queries" ? map.strongest(active.index) : map.attending(active.index);
    let weights = map.received;
    if (active) {
      weights = new Float32Array(view.count);
      for (const [index, weight] of found) weights[index] = weight;
    }
    if (own !== view) own.show(new Float32Array(own.count), active ? active.index : null);
    const most = view.show(weights, active && own === view ? active.index : null, this.layer.signed);
    this.title.textContent = describeHead(this.heads.chosen()).replace(/^l/, "L");
    const number = this.layer.heads[this.state.head];
    this.without.textContent = `with zoo.intervene(model, {"${this.layer.name}": zoo.ablate(heads=${number})}): ...`;
    this.readout.textContent = this.sentence(found, view, own);
    this.showLegend(most, active);
    this.showArcs(found, own, view);
    this.matrix.show(map, active);
    this.element.classList.toggle("held", Boolean(this.held));
  }

  sentence(found, view, own) {
    const { active } = this;
    if (!active) return "The mean attention that each position receives. Hover over one, or move to it with the keys.";
    const name = own.label(active.index);
    const verb = active.side === "queries" ? "attends to" : "is attended to by";
    if (!found.length) {
      return active.side === "queries" ? `${name} ${verb} nothing` : `${name} is among the ${description.keys} strongest keys of no position`;
    }
    const named = found.slice(0, NAMED).filter(([, weight]) => Math.abs(weight) >= 0.0005);
    const parts = named.map(([index, weight]) => `${view.label(index)} ${percent(weight)}`);
    const others = active.side === "queries" ? `; all others together ${percent(this.othersOf(found.slice(named.length)))}` : "";
    return `${name} ${verb} ${parts.join(", ") || "no position by 0.1% or more"}${others}`;
  }

  // The sum of the weights that the sentence does not name.
  othersOf(unnamed) {
    return unnamed.reduce((sum, [, weight]) => sum + Math.abs(weight), this.map.rest[this.active.index]);
  }

  showLegend(most, active) {
    const scale = element("span", { class: "scale" });
    const image = this.keys.parts.some((part) => part instanceof PatchesView);
    const stops = Array.from({ length: 9 }, (_, i) => css((image ? onImage : onPage)(i / 8)));
    scale.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
    const shown = active && active.side === "queries" ? `the rest of this query: ${percent(this.map.rest[active.index])}` : "";
    const notes = [shown, this.layer.signed ? "negative weights are shown by their size" : "",
      this.group.cut ? "what positions that are not shown receive counts as the rest" : ""].filter(Boolean).join("; ");
    this.legend.replaceChildren("0 ", scale, ` ${percent(most)} (by square root)${notes ? `; ${notes}` : ""}`);
  }

  // Arcs from and to tokens, or lines between places: of the active position, or of all of them where they are few.
  showArcs(found, own, view) {
    this.arcs.replaceChildren();
    const has = (side, kind) => side.parts.some((part) => part instanceof kind && part.count > 1);
    if (![own, view].some((side) => has(side, TokensView) || has(side, PlacesView))) return;
    let links = [];
    if (found) {
      links = found.slice(0, ARCS).filter(([, weight]) => Math.abs(weight) >= 0.01).map(([index, weight]) => [this.active.index, index, weight]);
    } else if (Math.max(own.count, view.count) <= ALL_ARCS) {
      for (let query = 0; query < this.map.queries; query++) {
        for (const [key, weight] of this.map.strongest(query).slice(0, 3)) if (Math.abs(weight) > 0.1) links.push([query, key, weight]);
      }
    }
    const frame = this.views.getBoundingClientRect();
    this.arcs.setAttribute("viewBox", `0 0 ${frame.width} ${frame.height}`);
    const heavy = Math.max(...links.map(([, , weight]) => Math.abs(weight)), 1e-6);
    this.arcs.innerHTML = links.map(([from, to, weight]) => {  // numbers alone
      const place = own === view && own.partOf(from) instanceof PlacesView;
      const path = (place ? line : arc)(own.anchor(from), view.anchor(to), frame, own !== view);
      const opacity = ((found ? 0.25 : 0.1) + 0.6 * Math.abs(weight)).toFixed(2);
      const width = (0.8 + 3 * shareOf(weight, heavy)).toFixed(2);
      return `<path d="${path}" stroke-width="${width}" opacity="${opacity}"${weight < 0 ? ' stroke-dasharray="4 3"' : ""}/>`;
    }).join("");
  }

  headTable() {
    const [head, body] = [["Query", "Strongest keys", "All others"], []];
    for (let query = 0; query < this.map.queries; query++) {
      const found = this.map.strongest(query);
      const others = found.slice(ROWS).reduce((sum, [, weight]) => sum + Math.abs(weight), this.map.rest[query]);
      const keys = found.slice(0, ROWS).map(([key, weight]) => `${this.keys.label(key)} ${percent(weight)}`).join(", ");
      body.push([`${query}: ${this.queries.label(query)}`, keys || "nothing", percent(others)]);
    }
    return table(head, body);
  }

  allTable() {
    const number = (value) => (value === null ? "" : value.toFixed(2));
    const rows = this.heads.cells.map((cell) => [cell.number, cell.name, cell.role, number(cell.entropy), number(cell.distance)]);
    return table(["Layer", "Head", "Role", "Entropy (nats)", "Mean distance"], rows);
  }
}

// The path of an arc between two boxes: above a line of text, or straight across from one side to the other.
function arc(from, to, frame, across) {
  const [x1, x2] = [from, to].map((box) => box.left + box.width / 2 - frame.left);
  if (across) {
    const down = from.bottom <= to.top;
    const beside = !down && from.right <= to.left;
    const start = down ? [x1, from.bottom - frame.top] : beside ? [from.right - frame.left, from.top + from.height / 2 - frame.top] : [x1, from.top + from.height / 2 - frame.top];
    const end = down ? [x2, to.top + Math.min(to.height / 2, 12) - frame.top] : beside && to.height > 60 ? [to.left - frame.left, to.top + to.height / 2 - frame.top] : [x2, to.top + to.height / 2 - frame.top];
    const [middleX, middleY] = [(start[0] + end[0]) / 2, (start[1] + end[1]) / 2];
    return down ? `M${start} C${start[0]},${middleY} ${end[0]},${middleY} ${end}` : `M${start} C${middleX},${start[1]} ${middleX},${end[1]} ${end}`;
  }
  const [y1, y2] = [from.top - frame.top, to.top - frame.top];
  if (from === to || (x1 === x2 && y1 === y2)) return `M${x1 - 7},${y1} C${x1 - 12},${y1 - 16} ${x1 + 12},${y1 - 16} ${x1 + 7},${y1}`;
  const rise = Math.min(y1, y2) - Math.min(46, 8 + 0.16 * Math.abs(x2 - x1));
  return `M${x1},${y1} C${x1},${rise} ${x2},${rise} ${x2},${y2}`;
}

// The path of a straight line between the middles of two boxes.
function line(from, to, frame) {
  const middle = (box) => [box.left + box.width / 2 - frame.left, box.top + box.height / 2 - frame.top];
  return `M${middle(from)} L${middle(to)}`;
}

class MatrixView {
  constructor(hover, pick) {
    this.canvas = element("canvas");
    this.lines = [element("div", { class: "line row" }), element("div", { class: "line column" })];
    this.frame = element("div", { class: "matrix" }, this.canvas, ...this.lines);
    this.element = element("figure", { "aria-hidden": "true" }, this.frame,
      element("figcaption", {}, `Queries from top to bottom, keys from left to right; blank: not among the ${description.keys} strongest keys`));
    this.canvas.addEventListener("pointermove", (event) => event.pointerType === "mouse" && hover(...this.find(event)));
    this.canvas.addEventListener("pointerleave", () => hover(null, null));
    this.canvas.addEventListener("click", (event) => pick(this.find(event)[0]));
  }

  find(event) {
    const box = this.canvas.getBoundingClientRect();
    const at = (place, size, count) => Math.min(count - 1, Math.max(0, Math.floor((place / size) * count)));
    return [at(event.clientY - box.top, box.height, this.map.queries), at(event.clientX - box.left, box.width, this.map.keys)];
  }

  show(map, active) {
    if (this.map !== map || this.dark !== darkTheme.matches) {
      this.map = map;
      this.dark = darkTheme.matches;
      const shares = new Float32Array(map.queries * map.keys);
      for (let i = 0; i < map.columns.length; i++) {
        if (map.weights[i]) shares[Math.floor(i / map.kept) * map.keys + map.columns[i]] = shareOf(map.weights[i], map.most);
      }
      paint(this.canvas, map.keys, map.queries, shares, onPage);
      const cell = Math.min(18, MATRIX / Math.max(map.queries, map.keys));
      this.frame.style.width = `${Math.max(24, cell * map.keys)}px`;
      this.frame.style.aspectRatio = `${map.keys} / ${Math.max(map.queries, map.keys / 12)}`;
    }
    const places = [[active?.side === "queries" ? active.index : null, map.queries, "top"],
      [active?.side === "keys" ? active.index : active?.other ?? null, map.keys, "left"]];
    places.forEach(([index, count, edge], i) => {
      this.lines[i].hidden = index === null;
      if (index !== null) this.lines[i].style[edge] = `${(100 * (index + 0.5)) / count}%`;
    });
  }
}

function choice(label, options, change) {
  const select = element("select");
  const made = { select, label: element("label", {}, `${label} `, select) };
  made.fill = (entries) => {
    const before = select.value;
    select.replaceChildren(...entries.map(([value, text]) => element("option", { value }, text)));
    select.value = entries.some(([value]) => String(value) === before) ? before : entries[0][0];
    made.label.hidden = entries.length < 2;
  };
  made.fill(options);
  select.addEventListener("change", () => change(select.value));
  return made;
}

// A part that is made when it is first opened, and again after a change.
function details(summary, make) {
  const content = element("div", { class: "scrolled" });
  const made = { element: element("details", {}, element("summary", {}, summary), content) };
  made.refresh = () => content.replaceChildren(...(made.element.open ? [make()] : []));
  made.element.addEventListener("toggle", made.refresh);
  return made;
}

function table(head, rows) {
  const row = (cells, tag) => element("tr", {}, ...cells.map((cell, i) =>
    element(tag, tag === "th" ? { scope: "col" } : {}, i ? String(cell ?? "") : element("bdi", {}, String(cell)))));
  return element("table", {}, element("thead", {}, row(head, "th")), element("tbody", {}, ...rows.map((cells) => row(cells, "td"))));
}

"use strict";

// The page: a panel for each model, with the head of all of them in the address (#layer=3&head=5&query=7).

const panels = [];
const link = element("input", { type: "checkbox", checked: "" });

const page = {
  selected(panel) {
    const { group, layer } = panel;
    const state = new URLSearchParams();
    if (panels.length > 1) state.set("model", panel.number);
    if (panel.model.groups.length > 1) state.set("maps", group.name);
    state.set("layer", layer.number);
    state.set("head", layer.heads[panel.state.head]);
    if (panel.held) state.set(panel.held.side === "keys" ? "key" : "query", panel.held.index);
    try {
      history.replaceState(null, "", `#${state}`);
    } catch {
      // an iframe of a notebook has no address of its own
    }
    for (const other of others(panel)) {
      const found = place(other, group.name, layer.number, layer.heads[panel.state.head]);
      if (found) other.select(found, true);
    }
  },

  hovered(panel, active, side) {
    for (const other of others(panel)) {
      if (other.group.name !== panel.group.name || !alike(panel, other, side)) continue;
      other.held = panel.held;
      other.setActive(active && { ...active }, true);
    }
  },
};

function others(panel) {
  return link.checked ? panels.filter((other) => other !== panel && other.heads) : [];
}

// Whether two models have the same positions on one side of a map.
function alike(one, other, side) {
  const texts = (panel) => JSON.stringify(panel.model.positions[panel.group[side]].map((part) => part.texts ?? part.grid));
  return texts(one) === texts(other);
}

// Where a model has a head, by the name of its group and the numbers of the layer and head.
function place(panel, name, number, head) {
  const named = panel.model.groups.findIndex((group) => name === null || group.name === name);
  const group = named < 0 ? 0 : named;
  const layer = panel.model.groups[group].layers.findIndex((each) => each.number === number);
  const index = layer < 0 ? -1 : panel.model.groups[group].layers[layer].heads.indexOf(head);
  return index < 0 ? null : { group, layer, head: index };
}

async function openAddress() {
  const state = new URLSearchParams(location.hash.slice(1));
  const number = (name) => (state.has(name) ? Number(state.get(name)) : null);
  for (const panel of panels) {
    const own = number("model") === null || number("model") === panel.number || link.checked;
    const first = panel.model.groups[0].layers[0];
    const found = own ? place(panel, state.get("maps"), number("layer") ?? first.number, number("head") ?? first.heads[0]) : null;
    await panel.select(found ?? { group: 0, layer: 0, head: 0 }, true);
    const held = ["query", "key"].filter((side) => state.has(side)).map((side) => ({ side: side === "key" ? "keys" : "queries", index: number(side) }))[0];
    const view = held && (held.side === "keys" ? panel.keys : panel.queries);
    const meant = panels[number("model") ?? 0] ?? panel;
    const same = panel === meant || (link.checked && meant.heads && alike(meant, panel, held?.side ?? "queries"));
    const valid = found && held && same && held.index >= 0 && held.index < view.count;
    if (valid && panel.group.same) panel.direction.select.value = held.side;
    panel.held = valid ? held : null;
    panel.setActive(panel.held, true);
  }
}

function showFaithfulness(rows) {
  const section = document.getElementById("faithfulness");
  section.append(element("h2", {}, "Deletion and insertion"));
  if (!rows) {
    section.append(element("p", {}, "Not measured for this input. How much a prediction falls when the most attended positions are deleted, "
      + "and how fast it returns when they are inserted, says whether the attention is a reason for it."));
    return;
  }
  section.append(element("div", { class: "scrolled" }, table(rows[0], rows.slice(1))));
}

function showLinks() {
  if (panels.length < 2) return;
  const differ = panels.some((panel) => JSON.stringify(panel.model.positions) !== JSON.stringify(panels[0].model.positions));
  const note = differ ? " The models have different tokens or patches: each has its own, and hovering is linked where they are the same." : "";
  document.getElementById("models").before(element("p", { class: "links" },
    element("label", {}, link, " Choose the same head in all models."), note));
}

async function start() {
  const root = document.getElementById("models");
  root.replaceChildren();
  description.models.forEach((model, i) => panels.push(new Panel(model, i, page)));
  root.classList.toggle("several", panels.length > 1);
  root.append(...panels.map((panel) => panel.element));
  showLinks();
  showFaithfulness(description.faithfulness);
  await openAddress();
  const again = () => panels.forEach((panel) => {
    panel.heads.makeAtlas();
    panel.heads.show([panel.state.layer, panel.state.head]);
    panel.show();
  });
  darkTheme.addEventListener("change", again);
  window.addEventListener("resize", again);
  window.addEventListener("hashchange", openAddress);
  document.body.dataset.ready = "true";
}

start();

// Counters of each node, and what has moved lately.

import { byId, h, hex } from "./dom.js";

const LIT_MS = 2500;
const INTERFACE = [
  ["rx_packets", "received"], ["tx_packets", "sent"], ["rx_errors", "rx errors"], ["rx_dropped", "rx dropped"],
  ["tx_errors", "tx errors"], ["tx_dropped", "tx dropped"], ["tx_carrier_errors", "carrier errors"],
];
const ALWAYS = new Set(["rx_packets", "tx_packets"]);
const SMALL_WINDOW = 128;

export class Counters {
  constructor() {
    this.known = new Map(); // name of a number -> what it was
    this.lit = new Map(); // name of a number -> [until when it is lit, by how much it has moved]
  }

  show(nodes) {
    const now = performance.now();
    const drops = Object.entries(nodes).flatMap(([name, node]) => this.drops(name, node, now));
    const cards = Object.entries(nodes).map(([name, node]) => this.card(name, node, now));
    byId("counters").replaceChildren(
      h("h2", {}, "Dropped packets"),
      h("table", { class: "drops" }, h("tbody", {}, drops.length ? drops
        : h("tr", {}, h("td", { class: "quiet" }, "none: xfrm_stat is all 0")))),
      h("div", { class: "cards" }, cards));
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.dim(), LIT_MS + 50);
  }

  dim() {
    for (const element of document.querySelectorAll("#counters .moved")) element.classList.remove("moved");
    for (const element of document.querySelectorAll("#counters .by")) element.textContent = "";
  }

  // A number, lit for a while if it has moved.
  value(name, value, now, show = (number) => number.toLocaleString("en")) {
    const before = this.known.get(name);
    if (before !== undefined && before !== value)
      this.lit.set(name, [now + LIT_MS, value - before + (this.lit.get(name)?.[0] > now ? this.lit.get(name)[1] : 0)]);
    this.known.set(name, value);
    const [until, by] = this.lit.get(name) ?? [0, 0];
    const moved = until > now;
    return h("td", { class: moved ? "number moved" : "number", "data-counter": name },
      h("span", { class: "by" }, moved && by > 0 ? `+${by} ` : ""), show(value));
  }

  // A number that is shown once it is not 0. It is remembered before, too: the first step is the one to see.
  drop(name, words, value, now) {
    const cell = this.value(name, value, now);
    return value ? h("tr", { class: "drop" }, h("th", { scope: "row" }, words), cell) : null;
  }

  // What /proc/net/xfrm_stat of a node says.
  drops(name, node, now) {
    return Object.entries(node.xfrm_stat ?? {}).map(([counter, value]) =>
      this.drop(`${name} ${counter}`, [`${name}: `, h("b", {}, counter)], value, now)).filter(Boolean);
  }

  card(name, node, now) {
    if (node.error) return h("article", { class: "card" }, h("h3", {}, name), h("p", { class: "bad" }, node.error));
    const owned = new Set(node.interfaces.map((one) => one.if_id));
    return h("article", { class: "card", "data-node": name },
      h("h3", {}, name),
      node.interfaces.map((one) => [
        this.interface(name, one, now),
        node.states.filter((state) => state.if_id === one.if_id).map((state) => this.state(name, state, now)),
      ]).flat(2),
      node.states.filter((state) => !owned.has(state.if_id)).map((state) => this.state(name, state, now)),
      node.state_count > node.states.length
        ? h("p", { class: "quiet" }, `and ${node.state_count - node.states.length} older states`) : null);
  }

  interface(node, one, now) {
    const rows = INTERFACE.map(([field, words]) => {
      const [name, value] = [`${node} ${one.name} ${field}`, one.stats[field]];
      return ALWAYS.has(field) ? h("tr", {}, h("th", { scope: "row" }, words), this.value(name, value, now))
        : this.drop(name, words, value, now);
    });
    return h("div", { class: "group" },
      h("h4", {}, one.name, h("span", { class: "quiet" }, ` if_id ${one.if_id}${one.up ? "" : ", down"}`)),
      h("table", {}, h("tbody", {}, rows)));
  }

  state(node, state, now) {
    const name = `${node} ${state.spi} ${state.dst}`;
    const losses = [["replayed", state.replayed], ["late", state.late], ["unauthentic", state.unauthentic]]
      .map(([words, value]) => this.drop(`${name} ${words}`, words, value, now));
    return h("div", { class: "group state-group" },
      h("table", {}, h("tbody", {},
        h("tr", {}, h("th", { scope: "row" }, h("span", { class: `way ${state.direction}` }, state.direction),
          h("code", { class: "spi" }, `0x${hex(state.spi, 8)}`)),
          this.value(`${name} packets`, state.packets, now, (number) => `${number.toLocaleString("en")} ${number === 1 ? "packet" : "packets"}`)),
        h("tr", {}, h("th", { scope: "row", class: "algorithm" }, `${state.mode}, ${state.algorithms.join(", ")}`),
          this.value(`${name} last`, state.last, now, (number) => `#${number}`)),
        losses)),
      state.window ? windowOf(state) : state.direction === "in"
        ? h("p", { class: "quiet algorithm" }, "no replay window: a copy is let in like the packet itself") : null);
  }
}

// The replay window, the newest number first on the right, as a row of little boxes.
function windowOf(state) {
  const shown = Math.min(state.window, SMALL_WINDOW);
  const seen = BigInt(`0x${state.seen || "0"}`);
  const bits = [];
  for (let back = shown - 1; back >= 0; back--) {
    const number = state.last - back;
    const there = (seen >> BigInt(back)) & 1n;
    bits.push(h("i", { class: number < 1 ? "none" : there ? "seen" : "missing" }));
  }
  const words = `replay window: of the last ${shown} numbers those seen are filled, the newest is last`;
  return h("div", { class: "window", role: "img", "aria-label": words, title: words }, bits);
}

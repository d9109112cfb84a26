// The packets of what is selected, the newest first.

import { byId, h, hex } from "./dom.js";

const SHOWN = 60;

export class List {
  constructor(open) {
    this.open = open;
    this.packets = new Map();
    this.selection = null;
    this.lab = null;
    this.current = null;
    byId("list-box").addEventListener("mouseleave", () => this.render());
    byId("list").addEventListener("keydown", (event) => this.step(event));
  }

  add(packets) {
    const fresh = packets.filter((packet) => !this.packets.has(packet.id));
    for (const packet of packets) this.packets.set(packet.id, packet);
    while (this.packets.size > 400) this.packets.delete(this.packets.keys().next().value);
    if (!byId("list-box").matches(":hover")) this.render(); // what one points at does not move
    return fresh;
  }

  select(selection) {
    this.selection = selection;
    this.render();
  }

  mark(id) {
    this.current = id;
    this.render();
  }

  wanted(packet) {
    const one = this.selection;
    if (!one) return false;
    if (one.kind === "link") return packet.links.some((seen) => seen.link === one.link);
    const here = (told) => told && told.node === one.node && told.interface === one.interface;
    return here(packet.sealed) || packet.opened.some(here);
  }

  render() {
    byId("list-box").hidden = byId("packets-hint").hidden = false;
    if (!this.selection) {
      byId("list-box").hidden = true;
      return;
    }
    const shown = [...this.packets.values()].filter((packet) => this.wanted(packet)).slice(-SHOWN).reverse();
    byId("packets-hint").hidden = shown.length > 0;
    byId("packets-hint").textContent = "Nothing has passed here yet. Start a ping above.";
    const focused = document.activeElement?.closest?.("#list tr")?.dataset.id;
    byId("list").replaceChildren(...shown.map((packet) => this.row(packet)));
    if (focused) byId("list").querySelector(`tr[data-id="${focused}"]`)?.focus();
  }

  step(event) {
    const row = event.target.closest("tr");
    const next = { ArrowDown: row?.nextElementSibling, ArrowUp: row?.previousElementSibling }[event.key];
    if (next) {
      event.preventDefault();
      next.focus();
    } else if (row && (event.key === "Enter" || event.key === " ")) {
      event.preventDefault();
      this.open(Number(row.dataset.id));
    }
  }

  row(packet) {
    const time = new Date(packet.time * 1000);
    const clock = `${time.toTimeString().slice(0, 8)}.${String(time.getMilliseconds()).padStart(3, "0")}`;
    return h("tr",
      { tabindex: "0", "data-id": packet.id, class: `packet ${packet.id === this.current ? "current" : ""}`,
        "aria-selected": packet.id === this.current, onclick: () => this.open(packet.id) },
      h("td", { class: "time" }, clock),
      h("td", { class: "way-cell" }, this.way(packet)),
      h("td", { class: "outside" }, outside(packet)),
      h("td", {}, packet.inner ?? h("span", { class: "quiet" }, packet.esp ? "not opened" : "in the clear")),
      h("td", {}, fate(packet)));
  }

  way(packet) {
    const seen = this.selection.kind === "link"
      ? packet.links.find((one) => one.link === this.selection.link) : packet.links[0];
    if (!seen || !this.lab) return packet.sealed ? `${packet.sealed.node} →` : "";
    const link = this.lab.links[seen.link];
    const [from, to] = seen.forward ? [link.left[0], link.right[0]] : [link.right[0], link.left[0]];
    return `${from} → ${to}`;
  }
}

function outside(packet) {
  if (!packet.esp) return packet.outer || h("span", { class: "quiet" }, "never left");
  return [
    packet.origin ? h("span", { class: "badge" }, packet.origin.split(":")[0]) : null,
    h("b", {}, "ESP"), ` 0x${hex(packet.esp.spi, 8)} #${packet.esp.sequence}`,
  ];
}

export function fate(packet) {
  const told = [...(packet.sealed?.reason ? [packet.sealed] : []), ...packet.opened];
  if (!told.length) return h("span", { class: "quiet" }, packet.esp ? "nobody has received it" : "");
  return told.map((one) => one.reason
    ? h("span", { class: "bad", title: one.reason }, `${one.node}: ${one.counter || one.reason} `)
    : h("span", { class: "good" }, `${one.node}: delivered `));
}

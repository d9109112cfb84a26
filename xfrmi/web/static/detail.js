// One packet: plaintext and ciphertext of the same bytes side by side, what a turned bit does, and sending it again.

import { ask } from "./api.js";
import { byId, h, hex, put } from "./dom.js";
import { fate } from "./list.js";

const WIDE = 1180; // pixels from which on a row has 16 bytes
const KINDS = {
  ip: "IP header", udp: "UDP header", spi: "SPI", seq: "sequence number", iv: "IV", inner: "inner IP header",
  payload: "payload", tfc: "TFC padding", pad: "padding", trailer: "pad length, next header", icv: "ICV",
  opaque: "not opened",
};

export class Detail {
  constructor(closed) {
    this.box = byId("detail");
    this.closed = closed;
    this.packet = null;
    this.offset = null;
    this.mask = 1;
    addEventListener("resize", () => this.packet && this.perRow() !== this.drawn && this.draw());
  }

  async open(id) {
    try {
      this.packet = await ask(`/api/packets/${id}`);
    } catch (error) {
      this.box.hidden = false;
      put(this.box, h("p", { class: "bad" }, error.message));
      return;
    }
    this.offset = null;
    this.said = "";
    this.draw();
    this.box.scrollIntoView({ block: "nearest" });
  }

  close() {
    this.packet = null;
    this.box.hidden = true;
    this.closed();
  }

  perRow() {
    return this.box.clientWidth >= WIDE ? 16 : 8;
  }

  draw() {
    const packet = this.packet;
    this.box.hidden = false;
    this.drawn = this.perRow();
    const title = packet.esp ? `ESP packet ${packet.esp.sequence} of 0x${hex(packet.esp.spi, 8)}` : packet.outer || packet.inner || "a packet";
    this.about = h("p", { class: "about", role: "status" }, "Point at a byte: it is named on both sides. Click one to turn bits of it.");
    this.turn = h("div", { class: "turn" });
    put(this.box,
      h("div", { class: "row" }, h("h2", {}, title), h("span", {}, fate(packet)), h("span", { class: "grow" }),
        h("button", { onclick: () => this.close(), "aria-label": "close this packet" }, "Close")),
      packet.origin ? h("p", { class: "quiet" }, `This page has sent it, ${packet.origin}.`) : null,
      packet.wire ? this.bytes(packet.wire) : h("p", {}, "It did not get as far as a link."),
      packet.wire ? this.legend(packet.wire) : null,
      h("div", { class: "steps" }, packet.sides.map((side) => this.steps(side))),
    );
    this.drawTurn();
  }

  bytes(wire) {
    this.wire = unpack(wire);
    const known = wire.plain.length > 0;
    return h("div", { class: "sides" },
      h("figure", {}, h("figcaption", {}, h("b", {}, "Plaintext"), known ? ", as it was sealed" : ": nobody has opened it"), this.grid("plain")),
      h("figure", {}, h("figcaption", {}, h("b", {}, "On the wire"), this.packet.esp ? ", for everybody" : ", in the clear"), this.grid("wire")),
      h("div", { class: "beside" }, this.about, this.turn));
  }

  grid(side) {
    const perRow = this.drawn;
    const rows = [];
    for (let start = 0; start < this.wire.bytes.length; start += perRow) {
      const cells = [], text = [];
      for (let offset = start; offset < start + perRow; offset++) {
        const value = this.value(side, offset);
        const field = this.wire.fieldAt[offset];
        const known = value !== undefined;
        cells.push(h("td", {
          "data-at": offset < this.wire.bytes.length ? offset : null,
          class: field && known ? `byte f-${field.kind}` : "byte empty",
        }, known ? hex(value) : field ? "·" : ""));
        text.push(h("span", { "data-at": known ? offset : null },
          !known ? " " : value >= 32 && value < 127 ? String.fromCharCode(value) : "."));
      }
      rows.push(h("tr", {}, h("th", {}, String(start)), cells, h("td", { class: "text" }, text)));
    }
    return h("table", {
      class: `grid ${side}`, tabindex: "0",
      "aria-label": `${side === "wire" ? "bytes on the wire" : "plaintext"}; arrow keys go from byte to byte, Enter chooses`,
      onmouseover: (event) => this.point(event.target.dataset.at),
      onmouseleave: () => this.point(this.offset),
      onclick: (event) => event.target.dataset.at !== undefined && this.choose(Number(event.target.dataset.at)),
      onkeydown: (event) => this.key(event),
    }, h("tbody", {}, rows));
  }

  value(side, offset) {
    if (side === "wire") return this.wire.bytes[offset];
    const at = offset - this.wire.plainAt;
    return at >= 0 ? this.wire.plain[at] : undefined;
  }

  key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.drawn, ArrowDown: this.drawn }[event.key];
    if (step) {
      event.preventDefault();
      const next = (this.pointed ?? -step) + step;
      if (next >= 0 && next < this.wire.bytes.length) this.point(next);
    } else if (event.key === "Enter" && this.pointed !== null) {
      event.preventDefault();
      this.choose(this.pointed);
    }
  }

  point(text) {
    if (text === undefined) return;
    const offset = text === null ? null : Number(text);
    this.pointed = offset;
    const field = offset === null ? null : this.wire.fieldAt[offset];
    for (const cell of this.box.querySelectorAll("[data-at]")) {
      const at = Number(cell.dataset.at);
      cell.classList.toggle("pointed", at === offset);
      cell.classList.toggle("same", field !== null && field !== undefined && at >= field.start && at < field.end);
      cell.classList.toggle("chosen", at === this.offset);
    }
    if (field) this.about.replaceChildren(...aboutByte(this.wire, field, offset, this.value("plain", offset)));
  }

  choose(offset) {
    this.offset = offset;
    this.said = "";
    this.point(offset);
    this.ask();
  }

  async ask() {
    this.guess = null;
    this.drawTurn();
    const asked = [this.packet.id, this.offset, this.mask];
    let guess;
    try {
      guess = await ask(`/api/packets/${asked[0]}/flip?offset=${asked[1]}&mask=${asked[2]}`);
    } catch (error) {
      guess = { error: error.message };
    }
    if (this.packet?.id === asked[0] && this.offset === asked[1] && this.mask === asked[2]) {
      this.guess = guess;
      this.drawTurn();
    }
  }

  drawTurn() {
    const packet = this.packet;
    const again = h("button", { id: "replay", disabled: !packet.can_send, onclick: () => this.send({}) }, "Send it again");
    const said = h("p", { class: `answer ${this.saidBad ? "bad" : "good"}`, id: "sent", role: "status" }, this.said);
    if (this.offset === null) {
      put(this.turn, h("h3", {}, "Replay"),
        h("p", { class: "quiet" }, "The same packet once more, as an attacker on the way would."), again, said);
      return;
    }
    const before = this.wire.bytes[this.offset];
    const bits = [7, 6, 5, 4, 3, 2, 1, 0].map((bit) => {
      const on = Boolean(this.mask & (1 << bit));
      return h("button", { class: "bit", "aria-pressed": on, title: `turn bit ${bit}`,
        onclick: () => {
          if (this.mask === 1 << bit) return;
          this.mask ^= 1 << bit;
          this.ask();
        } }, String((before ^ this.mask) >> bit & 1));
    });
    put(this.turn,
      h("h3", {}, `Turn bits of byte ${this.offset}`),
      h("div", { class: "bits" }, bits, h("code", {}, `${hex(before)} → ${hex(before ^ this.mask)}`)),
      h("p", { id: "guess" }, this.guess === null ? "trying it out ..." : this.guess.error ?? [
        "Turned on the way, it would be ",
        h("b", { class: this.guess.delivered ? "good" : "bad" }, this.guess.outcome), "."]),
      h("div", { class: "row" },
        h("button", { id: "forge", class: "primary", disabled: !packet.can_send,
          onclick: () => this.send({ offset: this.offset, mask: this.mask, number: this.fresh.checked ? "unused" : "same" }) },
          "Send it like that"), again),
      packet.esp ? h("label", { class: "check" }, this.fresh = h("input", { type: "checkbox", id: "fresh", checked: this.freshWanted !== false,
        onchange: () => { this.freshWanted = this.fresh.checked; } }),
        " under a number not used yet (its own is seen already, and would be dropped as replayed)")
        : (this.fresh = { checked: false }, null),
      said);
  }

  async send(body) {
    this.said = "sent, waiting for who receives it ...";
    this.saidBad = false;
    this.drawTurn();
    const packet = this.packet;
    try {
      const done = await ask(`/api/packets/${packet.id}/send`, { method: "POST", body });
      const one = done.answer;
      this.saidBad = !one?.delivered;
      this.said = !one ? `Sent (${done.sent}). No daemon has seen it: it ended at a host or router before ESP.`
        : one.delivered ? `Sent (${done.sent}). ${one.node} has DELIVERED it through ${one.interface}.`
        : `Sent (${done.sent}). ${one.node} has dropped it: ${one.reason}; ${one.counter || "no counter"} rises.`;
    } catch (error) {
      this.said = error.message;
      this.saidBad = true;
    }
    if (this.packet === packet) this.drawTurn();
  }

  legend(wire) {
    const kinds = new Set(wire.fields.map((field) => field.kind));
    return h("p", { class: "legend" },
      [...kinds].map((kind) => h("span", { class: `swatch f-${kind}` }, KINDS[kind] ?? kind)));
  }

  steps(side) {
    const what = side.direction === "in" ? `How ${side.node} received it`
      : side.reason ? `What ${side.node} did with it` : `How ${side.node} sealed it`;
    return h("details", {},
      h("summary", {}, `${what}, step by step: ${side.verdict}`),
      h("p", { class: "quiet" }, `${side.origin} ${side.keys[0].toUpperCase()}${side.keys.slice(1)}.`),
      h("ol", {}, side.steps.map((step) => h("li", { class: step.failed ? "bad" : "" },
        h("b", {}, step.title), ` ${step.text}`,
        h("dl", {}, Object.entries(step.facts).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]))))));
  }
}

function unpack(wire) {
  const bytesOf = (text) => Uint8Array.from(text.match(/../g) ?? [], (two) => parseInt(two, 16));
  const fieldAt = [];
  for (const field of wire.fields) for (let at = field.start; at < field.end; at++) fieldAt[at] = field;
  return { bytes: bytesOf(wire.bytes), plain: bytesOf(wire.plain), plainAt: wire.plain_at, fieldAt };
}

function aboutByte(wire, field, offset, plain) {
  const covered = [field.encrypted ? "encrypted" : "readable for everybody", field.authenticated ? "authenticated" : null];
  const values = plain !== undefined && field.encrypted
    ? `${hex(plain)} inside, ${hex(wire.bytes[offset])} outside` : hex(wire.bytes[offset]);
  return [
    h("b", { class: `swatch f-${field.kind}` }, field.name), ` byte ${offset}: `, h("code", {}, values),
    field.text ? ` ${field.text}` : "", h("span", { class: "quiet" }, ` ${covered.filter(Boolean).join(", ")}`),
  ];
}

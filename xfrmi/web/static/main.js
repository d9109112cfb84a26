// The page: what the server tells goes to the drawing, the counters and the list; what is chosen goes back.

import { ask, enter, listen, Refusal } from "./api.js";
import { Counters } from "./counters.js";
import { Detail } from "./detail.js";
import { byId, h, hex } from "./dom.js";
import { Drawing, interfaceOf } from "./draw.js";
import { List } from "./list.js";

const AGAIN_MS = 1500;

const drawing = new Drawing(select);
const counters = new Counters();
const list = new List(openPacket);
const detail = new Detail(() => list.mark(null));
let lab = null;
let packets = false; // are they wanted?
let stream = null;

function state(text, good) {
  byId("state").textContent = text;
  byId("state").className = good ? "state good" : "state bad";
}

function problem(text) {
  byId("problem").textContent = text;
  byId("problem").hidden = !text;
}

// Listen, again and again; while nobody sees the page, not at all.
async function follow() {
  for (;;) {
    if (document.hidden) {
      state("at rest", true);
      await new Promise((seen) => document.addEventListener("visibilitychange", seen, { once: true }));
      continue;
    }
    stream = new AbortController();
    try {
      await listen(`/api/events?packets=${packets ? 1 : 0}`, stream.signal, () => state("live", true), told);
      state("hung up", false);
    } catch (error) {
      if (error instanceof Refusal && error.status === 403) {
        state("locked", false);
        problem(`${error.message}. Enter in the terminal of \`xfrmi web\` prints another link.`);
        return;
      }
      if (stream.signal.aborted) continue;
      state("xfrmi web has ended, or the lab is down", false);
    }
    await new Promise((later) => setTimeout(later, AGAIN_MS));
  }
}

function told(message) {
  if (message.type === "lab") showLab(message.lab);
  else if (message.type === "counters") counters.show(message.nodes);
  else if (message.type === "pings") showPings(message.pings);
  else if (message.type === "note") byId("rekey-answer").textContent = message.text;
  else if (message.type === "problem") problem(message.text);
  else if (message.type === "packets")
    for (const packet of list.add(message.packets))
      for (const seen of packet.links)
        drawing.run(seen.link, seen.forward, packet.origin ? "forged" : packet.esp ? "esp" : "clear");
}

function showLab(found) {
  lab = list.lab = found;
  byId("lab-name").textContent = found.name;
  document.title = `${found.name} · xfrmi web`;
  drawing.show(found);
  offer(byId("ping-from"), found.nodes.map((node) => [node.name, node.name]));
  const targets = found.nodes.flatMap((node) => node.devices.flatMap((device) =>
    device.addresses.map((address) => [address.split("/")[0], `${address.split("/")[0]} (${node.name} ${device.name})`])));
  offer(byId("ping-to"), targets, secondEnd(found));
  offer(byId("rekey-tunnel"), found.tunnels.map((tunnel, number) =>
    [String(number), tunnel.ends.map((end) => `${end.node} ${end.interface}`).join(" ⇄ ")]));
  byId("rekey").hidden = !found.tunnels.length;
}

// What is worth pinging first: through a tunnel, from its one end to its other.
function secondEnd(found) {
  const ends = found.tunnels[0]?.ends;
  if (!ends) return undefined;
  const [from, to] = ends.map((end) => interfaceOf(found, end));
  if (from && !byId("ping-from").dataset.touched) byId("ping-from").value = from.node;
  const node = found.nodes.find((one) => one.name === to?.node);
  return node?.devices.find((device) => device.name === to.device)?.addresses[0]?.split("/")[0];
}

// Options of a select; what was chosen stays chosen.
function offer(select, options, first) {
  const wanted = select.value || first;
  const same = [...select.options].map((one) => one.value).join() === options.map(([value]) => value).join();
  if (same) return;
  select.replaceChildren(...options.map(([value, words]) => h("option", { value }, words)));
  if (options.some(([value]) => value === wanted)) select.value = wanted;
}

function showPings(pings) {
  byId("pings").replaceChildren(...pings.map((ping) =>
    h("span", { class: "chip", "data-ping": ping.id },
      `${ping.node} → ${ping.address}: `, h("b", {}, `${ping.answered} of ${ping.sent}`),
      ping.problem ? h("span", { class: "bad" }, ` ${ping.problem}`)
        : ping.last_ms !== null ? ` ${ping.last_ms} ms` : "",
      h("button", { type: "button", "aria-label": `stop pinging ${ping.address}`,
        onclick: () => tried(ask(`/api/pings/${ping.id}`, { method: "DELETE" })) }, "Stop"))));
}

function select(selection) {
  drawing.mark(selection.key);
  list.select(selection);
  const link = lab.links[selection.link];
  byId("packets-where").textContent = selection.kind === "link"
    ? `on the link ${link.left.join(" ")} — ${link.right.join(" ")}`
    : `through ${selection.interface} of ${selection.node}`;
  if (!packets) {
    packets = true;
    stream?.abort();
  }
}

function openPacket(id) {
  list.mark(id);
  detail.open(id);
}

async function tried(promise) {
  try {
    const answer = await promise;
    problem("");
    return answer;
  } catch (error) {
    problem(error.message);
    return null;
  }
}

byId("ping").addEventListener("submit", (event) => {
  event.preventDefault();
  const body = { node: byId("ping-from").value, address: byId("ping-to").value, interval: Number(byId("ping-every").value) };
  tried(ask("/api/pings", { method: "POST", body }));
});

byId("rekey").addEventListener("submit", async (event) => {
  event.preventDefault();
  const ends = lab.tunnels[Number(byId("rekey-tunnel").value)].ends.map(({ node, if_id }) => ({ node, if_id }));
  const done = await tried(ask("/api/rekey", { method: "POST", body: { ends } }));
  if (done)
    byId("rekey-answer").textContent = `${done.states
      .map((one) => `${one.from} → ${one.to}: 0x${hex(one.old, 8)} becomes 0x${hex(one.new, 8)}`).join("; ")}; the old ones go in ${done.old_states_stay} s`;
});

for (const id of ["ping-from", "ping-to"]) byId(id).addEventListener("change", (event) => { event.target.dataset.touched = 1; });
document.addEventListener("visibilitychange", () => { if (document.hidden) stream?.abort(); });
addEventListener("hashchange", () => location.hash && location.reload());

try {
  await enter();
  follow();
} catch (error) {
  state("locked", false);
  problem(error.message);
}

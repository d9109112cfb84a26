// The lab as a drawing: columns of nodes from one end of the longest way to the other, links between their devices,
// tunnels dotted above them.

import { byId, pressable, svg } from "./dom.js";

const ROW = 30, TITLE = 34, PAD = 10, GAP_Y = 34, MARGIN = 14, CHAR = 7.3, MIN_GAP = 110, ABOVE = 24, SIDE = 60;

export class Drawing {
  constructor(select) {
    this.select = select;
    this.wires = new Map(); // link number -> its ends
    this.lab = null;
    this.selected = "";
  }

  show(lab) {
    this.lab = lab;
    const over = overhead(lab);
    const boxes = placed(lab, MARGIN + over.length * ABOVE);
    const columnOf = (end) => boxes.find((box) => box.node.name === interfaceOf(lab, end)?.node)?.column;
    const beside = lab.tunnels.some(({ ends }) => columnOf(ends[0]) === columnOf(ends[1])) ? SIDE : 0;
    const width = Math.max(...boxes.map((box) => box.x + box.width)) + MARGIN + beside;
    const height = Math.max(...boxes.map((box) => box.y + box.height)) + MARGIN;
    const at = new Map(boxes.map((box) => [box.node.name, box]));
    this.wires.clear();
    const links = lab.links.map((link, number) => this.link(link, number, at));
    const tunnels = lab.tunnels.map((tunnel) => this.tunnel(tunnel, at, over.indexOf(tunnel))).filter(Boolean);
    const nodes = boxes.map((box) => this.node(box));
    this.moving = svg("g", { class: "moving" });
    this.image = svg(
      "svg",
      { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `lab ${lab.name}` },
      tunnels, links, nodes, this.moving,
    );
    this.image.style.maxWidth = `${width * 1.15}px`;
    byId("drawing").replaceChildren(this.image);
    this.mark(this.selected);
  }

  mark(key) {
    this.selected = key;
    for (const element of this.image?.querySelectorAll("[data-key]") ?? []) {
      element.classList.toggle("selected", element.dataset.key === key);
      if (element.getAttribute("role")) element.setAttribute("aria-pressed", element.dataset.key === key);
    }
  }

  // A dot runs along a link.
  run(number, forward, kind) {
    const wire = this.wires.get(number);
    if (!wire || matchMedia("(prefers-reduced-motion: reduce)").matches || this.moving.childElementCount > 12) return;
    const [from, to] = forward ? [wire[0], wire[1]] : [wire[1], wire[0]];
    const dot = svg("circle", { r: 5, class: `dot ${kind}` });
    this.moving.append(dot);
    const steps = [from, to].map(([x, y]) => ({ transform: `translate(${x}px, ${y}px)` }));
    dot.animate(steps, { duration: 500, easing: "ease-in-out" }).onfinish = () => dot.remove();
  }

  link(link, number, at) {
    const [left, right] = [at.get(link.left[0]), at.get(link.right[0])];
    const ends = [anchor(left, link.left[1], right), anchor(right, link.right[1], left)];
    this.wires.set(number, ends);
    const path = curve(ends, left.column === right.column);
    const key = `link ${number}`;
    const name = `link ${link.left.join(" ")} to ${link.right.join(" ")}${link.faults ? `, ${link.faults}` : ""}`;
    const [x, y] = middle(ends);
    return svg(
      "g",
      { class: `link ${link.faults === "pulled" ? "pulled" : ""}`, "data-key": key, "data-link": number, "aria-label": name,
        ...pressable(() => this.select({ kind: "link", link: number, key })) },
      svg("title", {}, name),
      svg("path", { d: path, class: "hit" }),
      svg("path", { d: path, class: "wire" }),
      link.faults ? svg("text", { x, y: y - 9, class: "doing" }, link.faults) : null,
    );
  }

  tunnel(tunnel, at, above) {
    const [one, other] = tunnel.ends.map((end) => interfaceOf(this.lab, end));
    if (!one || !other) return null;
    const [left, right] = [at.get(one.node), at.get(other.node)];
    const ends = [anchor(left, one.device, right), anchor(right, other.device, left)];
    const top = MARGIN + above * ABOVE + 8;
    const path = above < 0 ? curve(ends, left.column === right.column) : bridge(ends, top);
    const [x, y] = above < 0 ? middle(ends) : [(ends[0][0] + ends[1][0]) / 2, top + 11];
    const ids = new Set(tunnel.ends.map((end) => end.if_id));
    return svg(
      "g", { class: "tunnel" }, svg("path", { d: path }),
      svg("text", { x, y: y - 7, class: "doing" }, `if_id ${[...ids].join(", ")}`),
    );
  }

  node(box) {
    const { node, x, y, width, height } = box;
    const kind = node.kind === "host" ? "" : node.kind;
    return svg(
      "g",
      { class: `node ${node.daemon ? "daemon" : ""}` },
      svg("rect", { x, y, width, height, rx: 9, class: "box" }),
      svg("text", { x: x + PAD + 2, y: y + 22, class: "name" }, node.name),
      kind ? svg("text", { x: x + width - PAD, y: y + 22, class: "kind" }, kind) : null,
      box.devices.map((device, row) => this.device(box, device, y + TITLE + row * ROW)),
    );
  }

  device(box, device, y) {
    const key = device.xfrm ? `interface ${device.xfrm.node} ${device.name}` : null;
    const selection = { kind: "interface", node: device.xfrm?.node, interface: device.name, key };
    const name = `xfrm interface ${device.name} of ${box.node.name}`;
    const words = device.addresses.join("  ");
    return svg(
      "g",
      { class: `device ${device.xfrm ? "xfrm" : ""}`, "data-key": key,
        ...(key ? { "aria-label": name, ...pressable(() => this.select(selection)) } : {}) },
      key ? svg("title", {}, `${name}: its packets`) : null,
      svg("rect", { x: box.x + 5, y: y + 1, width: box.width - 10, height: ROW - 4, rx: 5, class: "port" }),
      svg("text", { x: box.x + PAD + 2, y: y + 18, class: "device-name" }, device.name),
      svg("text", { x: box.x + box.width - PAD - 2, y: y + 18, class: "address" }, words),
    );
  }
}

// Where an interface is used: not always in the node that seals for it.
export function interfaceOf(lab, end) {
  for (const node of lab.nodes)
    for (const device of node.devices)
      if (device.xfrm?.node === end.node && device.xfrm.if_id === end.if_id)
        return { node: node.name, device: device.name };
  return null;
}

// Tunnels that pass over a node between their ends, in a lab that is a row.
function overhead(lab) {
  const columns = columnsOf(lab);
  if (columns.some((names) => names.length > 1)) return [];
  const columnOf = (end) => columns.findIndex((names) => names.includes(interfaceOf(lab, end)?.node));
  return lab.tunnels.filter(({ ends }) => Math.abs(columnOf(ends[0]) - columnOf(ends[1])) > 1);
}

function placed(lab, top) {
  const columns = columnsOf(lab);
  const linked = new Set(lab.links.flatMap((link) => [link.left.join(" "), link.right.join(" ")]));
  const rank = (node, device) => (device.xfrm ? 0 : linked.has(`${node.name} ${device.name}`) ? 2 : 1);
  const boxes = columns.map((names, column) =>
    names.map((name) => {
      const node = lab.nodes.find((one) => one.name === name);
      const devices = [...node.devices].sort((one, other) => rank(node, one) - rank(node, other));
      const words = devices.map((device) => device.name.length + 3 + device.addresses.join("  ").length);
      const title = node.name.length + node.kind.length + 4;
      const width = Math.max(130, Math.max(title, ...words) * CHAR + 2 * PAD);
      const wires = devices.filter((device) => rank(node, device) === 2).length;
      return { node, column, devices, width, height: TITLE + devices.length * ROW + 6, below: wires * ROW / 2 + 6 };
    }));
  const tall = boxes.map((stack) => stack.reduce((sum, box) => sum + box.height + GAP_Y, -GAP_Y));
  const height = Math.max(...tall);
  const row = columns.every((names) => names.length === 1);
  // In a row the middles of what links are attached to stand on one line.
  const line = top + Math.max(...boxes.flat().map((box) => box.height - box.below));
  let x = MARGIN;
  boxes.forEach((stack, column) => {
    const width = Math.max(...stack.map((box) => box.width));
    let y = row ? line - (stack[0].height - stack[0].below) : top + (height - tall[column]) / 2;
    for (const box of stack) {
      box.x = x + (width - box.width) / 2;
      box.y = y;
      y += box.height + GAP_Y;
    }
    x += width + gapAfter(lab, columns, column);
  });
  return boxes.flat();
}

function gapAfter(lab, columns, column) {
  const words = lab.links
    .filter((link) => [link.left, link.right].some(([node]) => columns[column].includes(node)))
    .map((link) => link.faults.length);
  return Math.max(MIN_GAP, Math.max(0, ...words) * 6.2 + 24);
}

function columnsOf(lab) {
  const near = new Map(lab.nodes.map((node) => [node.name, []]));
  for (const { left, right } of lab.links) {
    near.get(left[0]).push(right[0]);
    near.get(right[0]).push(left[0]);
  }
  const linked = lab.nodes.map((node) => node.name).filter((name) => near.get(name).length);
  const distances = (start) => {
    const found = new Map([[start, 0]]);
    const queue = [start];
    for (const name of queue)
      for (const next of near.get(name))
        if (!found.has(next)) {
          found.set(next, found.get(name) + 1);
          queue.push(next);
        }
    return found;
  };
  const reach = (name) => Math.max(...distances(name).values());
  const columns = [];
  const left = [...linked];
  while (left.length) { // each connected part behind the one before
    const part = [...distances(left[0]).keys()];
    const start = part.reduce((best, name) => (reach(name) > reach(best) ? name : best),
      lab.nodes.find((node) => part.includes(node.name)).name);
    const offset = columns.length;
    for (const [name, distance] of distances(start)) {
      (columns[offset + distance] ??= []).push(name);
      left.splice(left.indexOf(name), 1);
    }
  }
  for (const node of lab.nodes.filter((one) => !near.get(one.name).length)) {
    const owner = node.devices.map((device) => device.xfrm?.node).find((name) => name && name !== node.name);
    const column = columns.find((names) => names.includes(owner));
    if (column) column.unshift(node.name);
    else columns.push([node.name]);
  }
  return columns;
}

function anchor(box, device, other) {
  const row = Math.max(box.devices.findIndex((one) => one.name === device), 0);
  const y = box.y + TITLE + row * ROW + ROW / 2 - 1;
  return [other.x + other.width / 2 >= box.x + box.width / 2 ? box.x + box.width : box.x, y];
}

function curve([[x1, y1], [x2, y2]], sameColumn) {
  if (sameColumn) return `M${x1} ${y1} C ${Math.max(x1, x2) + SIDE} ${y1}, ${Math.max(x1, x2) + SIDE} ${y2}, ${x2} ${y2}`;
  const bend = (x2 - x1) / 2;
  return `M${x1} ${y1} C ${x1 + bend} ${y1}, ${x2 - bend} ${y2}, ${x2} ${y2}`;
}

// Up, over what stands between, and down again.
function bridge([[x1, y1], [x2, y2]], top) {
  const side = Math.sign(x2 - x1) * 34;
  return `M${x1} ${y1} C ${x1 + side} ${y1}, ${x1 + side * 0.3} ${top}, ${x1 + side * 1.6} ${top} ` +
    `L ${x2 - side * 1.6} ${top} C ${x2 - side * 0.3} ${top}, ${x2 - side} ${y2}, ${x2} ${y2}`;
}

function middle([[x1, y1], [x2, y2]]) {
  return [(x1 + x2) / 2, (y1 + y2) / 2];
}

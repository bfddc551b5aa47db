// Ring draws the nodes around a circle, and the faulty routes between them.
class Ring {
  #box; #words; #nodes = []; #pairs = [];

  constructor(box, words) {
    [this.#box, this.#words] = [box, words];
    new ResizeObserver(() => this.#draw()).observe(box);
  }

  // The largest numbers of nodes that have names, that have a line for each route, and that are
  // drawn at all; and of faulty routes.
  static #named = 40; static #meshed = 12; static #drawn = 600; static #lines = 600;

  update(nodes, pairs) {
    [this.#nodes, this.#pairs] = [nodes, pairs];
    this.#draw();
  }

  #draw() {
    const [nodes, pairs] = [this.#nodes, this.#pairs];
    const faulty = new Set(pairs.flatMap((p) => [p.from.index, p.to.index]));
    const shown = nodes.length <= Ring.#drawn ? nodes : nodes.filter((n) => kindOf(n) !== "ok" || faulty.has(n.index)).slice(0, Ring.#drawn);
    const named = shown.length <= Ring.#named;
    const width = Math.max(280, Math.min(560, this.#box.clientWidth));
    const [rx, ry] = named ? [Math.min(160, width / 2 - 95), 150] : [Math.min(240, width / 2 - 8), Math.min(240, width / 2 - 8)];
    const height = 2 * ry + (named ? 70 : 16);
    const place = new Map(shown.map((n, i) => {
      const angle = 2 * Math.PI * i / shown.length - Math.PI / 2;
      return [n.index, { angle, x: width / 2 + rx * Math.cos(angle), y: height / 2 + ry * Math.sin(angle) }];
    }));
    const lines = pairs.filter((p) => place.has(p.from.index) && place.has(p.to.index)).slice(0, Ring.#lines);
    steady(this.#box, draw("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "group", "aria-label": `${count(nodes.length, "node")}, ${count(pairs.length, "faulty route")}` },
      shown.length <= Ring.#meshed && Ring.#mesh(shown, place, pairs),
      lines.map((p) => draw("path", { class: cellKind(p.symbol) + "-wire", d: Ring.#curve(place.get(p.from.index), place.get(p.to.index), width, height) },
        draw("title", {}, `${p.from.name} to ${p.to.name}: ${p.words}`))),
      shown.map((n) => Ring.#node(n, place.get(n.index), named, 2 * Math.PI * rx / shown.length, (width / 2 - rx - 14) / 6.6))));
    const notes = [];
    if (shown.length < nodes.length) notes.push(`${count(nodes.length - shown.length, "node")} without problems are not drawn.`);
    if (lines.length < pairs.length) notes.push(`${lines.length.toLocaleString("en")} of ${count(pairs.length, "faulty route")} are drawn.`);
    if (pairs.length === 0 && shown.length > Ring.#meshed) notes.push("There are no faulty routes.");
    this.#words.textContent = notes.join(" ");
  }

  static #mesh(nodes, place, pairs) {
    const faulty = new Set(pairs.map((p) => p.from.index + " " + p.to.index));
    return nodes.flatMap((a, i) => nodes.slice(i + 1).filter((b) => a.routes[b.index] === "=" && b.routes[a.index] === "=" && !faulty.has(a.index + " " + b.index)).map((b) => {
      const [p, q] = [place.get(a.index), place.get(b.index)];
      return draw("path", { class: "mesh", d: `M${p.x.toFixed(1)} ${p.y.toFixed(1)}L${q.x.toFixed(1)} ${q.y.toFixed(1)}` });
    }));
  }

  // curve bends to the right of its direction, so that both directions of a pair are visible.
  static #curve(p, q, width, height) {
    const [mx, my] = [(p.x + q.x) / 2, (p.y + q.y) / 2];
    const bend = 0.12;
    const x = mx + (width / 2 - mx) * 0.3 - (q.y - p.y) * bend;
    const y = my + (height / 2 - my) * 0.3 + (q.x - p.x) * bend;
    return `M${p.x.toFixed(1)} ${p.y.toFixed(1)}Q${x.toFixed(1)} ${y.toFixed(1)} ${q.x.toFixed(1)} ${q.y.toFixed(1)}`;
  }

  static #node(n, { angle, x, y }, named, room, letters) {
    const right = Math.cos(angle) > 0.05, left = Math.cos(angle) < -0.05;
    const radius = named ? 7 : Math.max(1.5, Math.min(6, room * 0.4));
    return draw("a", { href: nodePath(n.name), "aria-label": `${n.name}: ${wordOf(n)}` },
      draw("circle", { class: "node-" + kindOf(n), cx: x.toFixed(1), cy: y.toFixed(1), r: radius.toFixed(1) }),
      draw("title", {}, `${n.name}: ${wordOf(n)}`),
      named && draw("text", { class: right ? "" : left ? "end" : "middle", x: (x + (right ? 13 : left ? -13 : 0)).toFixed(1), y: (y + (right || left ? 4 : Math.sin(angle) > 0 ? 22 : -13)).toFixed(1) },
        cut(n.name, letters)));
  }
}

// Picture draws a node, its bridge with the pods, its link, and the peers on it. Peers that are ok
// may share a box; others have one each.
class Picture {
  #box; #report;

  constructor(box) {
    this.#box = box;
    new ResizeObserver(() => this.#report && this.#draw()).observe(box);
  }

  update(report) {
    this.#report = report;
    this.#draw();
  }

  #draw() {
    const width = Math.max(280, this.#box.clientWidth);
    const narrow = width < 520;
    const targets = Picture.#targets(this.#report, narrow ? 5 : 7);
    const left = narrow ? width : Math.min(300, width * 0.42);
    const [nodeHeight, step] = [176, 34];
    const height = narrow ? nodeHeight + 40 + targets.length * step : Math.max(nodeHeight, targets.length * step) + 8;
    const nodeTop = narrow ? 2 : (height - nodeHeight) / 2;
    const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": Picture.#words(this.#report, targets) },
      this.#node(left, nodeTop, nodeHeight));
    const bus = narrow ? 16 : left + 44;
    const tops = targets.map((_, i) => narrow ? nodeHeight + 36 + i * step : (height - targets.length * step) / 2 + i * step);
    if (targets.length > 0) {
      const uplink = nodeTop + nodeHeight - 26;
      const start = narrow ? [bus, nodeHeight + 2] : [left, uplink];
      const middles = tops.map((y) => y + step / 2);
      const [low, high] = narrow ? [nodeHeight + 2, Math.max(...middles)] : [Math.min(uplink, ...middles), Math.max(uplink, ...middles)];
      fill(svg, {}, [!narrow && draw("path", { class: "wire", d: `M${start[0]} ${start[1]}H${bus}` }), draw("path", { class: "wire", d: `M${bus} ${low}V${high}` }),
        targets.map((t, i) => Picture.#target(t, bus, tops[i], step, width))]);
    }
    steady(this.#box, svg);
  }

  #node(width, top, height) {
    const { host = {}, node } = this.#report;
    const w = width - 2;
    const uplinks = list(host.uplinks).map((u) => `${u.name} · MTU ${u.mtu}`).join(", ") || "no uplink";
    const parts = [
      draw("rect", { class: "box", x: 1, y: top, width: w, height, rx: 8 }),
      draw("text", { class: "strong", x: 14, y: top + 22 }, cut(node, w / 8)),
      draw("text", { class: "soft", x: 14, y: top + 40 }, cut(list(host.addresses).join(", "), w / 7)),
      draw("rect", { class: "inner", x: 12, y: top + height - 42, width: w - 22, height: 32, rx: 5 }),
      draw("text", { x: 24, y: top + height - 22 }, cut(uplinks, w / 8)),
    ];
    return host.router ? parts : parts.concat(this.#pods(w, top + 54));
  }

  #pods(w, top) {
    const { bridge = "", ports = 0, subnets = [] } = this.#report.host ?? {};
    const fit = Math.max(1, Math.min(8, Math.floor((w - 90) / 22)));
    const pods = Array.from({ length: Math.min(ports, fit) }, (_, i) => [
      draw("path", { class: "wire", d: `M${31 + i * 22} ${top + 14}v12` }),
      draw("rect", { class: "pod", x: 24 + i * 22, y: top, width: 14, height: 14, rx: 3 })]);
    const words = ports === 0 ? "no pods attached" : ports > fit ? `+ ${ports - fit}` : count(ports, "pod");
    return [pods,
      draw("text", { class: "soft", x: 24 + Math.min(ports, fit) * 22 + (ports ? 4 : 0), y: top + 12 }, words),
      draw("rect", { class: "inner", x: 12, y: top + 26, width: w - 22, height: 32, rx: 5 }),
      draw("text", { x: 24, y: top + 46 }, cut(`${bridge} · ${list(subnets).join(", ") || "no subnet"}`, (w - 40) / 7)),
      draw("path", { class: "wire", d: `M31 ${top + 58}v22` }), // the kernel routes between bridge and link
    ];
  }

  static #target({ label, note, kind }, bus, top, step, width) {
    const middle = top + step / 2;
    const room = (width - bus - 66) / 6.8;
    return draw("g", {},
      draw("path", { class: kind + "-wire", d: `M${bus} ${middle}H${bus + 30}` }),
      draw("rect", { class: "box", x: bus + 30, y: top + 3, width: width - bus - 32, height: step - 6, rx: 6 }),
      draw("text", { x: bus + 42, y: middle + 4 }, draw("tspan", { class: kind + " strong" }, { ok: "✓ ", warn: "! ", bad: "✕ " }[kind] ?? ""), cut(label, room),
        draw("tspan", { class: "soft", dx: 8 }, cut(note, Math.max(0, room - printable(label).length - 4)))),
      draw("title", {}, `${label}: ${note}`));
  }

  // targets returns the peers to draw, the worst first; those beyond the maximum share a box.
  static #targets(report, most) {
    const nodes = [...grouped(list(report.peers), (p) => p.node)].map(([node, rows]) => {
      const worst = rows.reduce((a, b) => (rank(b.state) < rank(a.state) ? b : a));
      return { label: node, note: worst.state === "ok" ? Picture.#paths(rows) : worst.state, kind: badness(worst.state), rank: rank(worst.state) };
    });
    const bad = nodes.filter((n) => n.kind !== "ok").sort((a, b) => a.rank - b.rank);
    const well = nodes.filter((n) => n.kind === "ok");
    const all = nodes.length <= most ? [...bad, ...well] : bad.slice(0, most - 1 - (bad.length > most - 1));
    if (nodes.length > most) {
      const more = bad.length - all.length;
      if (more > 0) all.push({ label: `${count(more, "more", "more")} with problems`, note: "", kind: "bad" });
      if (well.length > 0) all.push({ label: count(well.length, "peer"), note: "ok", kind: "ok" });
    }
    return all;
  }

  // paths are those to the subnets of a peer: "via" next hops, or "tunnel to" InternalIPs.
  static #paths(rows) {
    return [...grouped(rows, (r) => r.path ?? "direct")].map(([path, some]) => (path === "direct" ? `via ${some.map((r) => r.via).join(", ")}`
      : `${path} to ${some.map((r) => r.internalIP).join(", ")}`)).join("; ");
  }

  static #words(report, targets) {
    const host = report.host ?? {};
    return `Node ${report.node}: ${count(host.ports ?? 0, "pod")} on bridge ${host.bridge}, uplink ${list(host.uplinks).map((u) => u.name).join(", ") || "none"}. `
      + (targets.length ? "Peers: " + targets.map((t) => `${t.label} ${t.note}`).join("; ") : "No peers.");
  }
}

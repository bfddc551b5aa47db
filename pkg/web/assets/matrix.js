// Matrix shows how each node reaches each other: few nodes as a table with a symbol in each cell,
// many as a plane of colored dots. The arrow keys move through both, and Enter opens the details.
class Matrix {
  #box; #words; #nodes = []; #at = [0, 0]; #cells = []; #plane; #scale = 1; #block = 1; #data = "";

  constructor(box, words) {
    [this.#box, this.#words] = [box, words];
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#plane && this.#paint());
  }

  static #whole = 40;

  update(nodes) {
    this.#nodes = nodes;
    const data = nodes.map((n) => n.name + " " + n.routes).join("\n");
    if (data === this.#data) return;
    this.#data = data;
    this.#at = this.#at.map((i) => Math.min(i, Math.max(0, nodes.length - 1)));
    nodes.length <= Matrix.#whole ? this.#drawTable() : this.#drawPlane();
    this.#legend();
  }

  #symbol(from, to) { return this.#nodes[from].routes[to] ?? "?"; }

  #describe(from, to) {
    this.#words.textContent = printable(pairWords(this.#nodes[from], this.#nodes[to]));
  }

  #open(from, to) {
    const [a, b] = [this.#nodes[from], this.#nodes[to]];
    show(`${a.name} to ${b.name}`, pairTerms(a, b));
  }

  // key moves through the cells, or opens the details of one.
  #key(event) {
    const last = this.#nodes.length - 1;
    let [from, to] = this.#at;
    const step = event.shiftKey ? 10 : 1;
    switch (event.key) {
      case "ArrowUp": from -= step; break;
      case "ArrowDown": from += step; break;
      case "ArrowLeft": to -= step; break;
      case "ArrowRight": to += step; break;
      case "Home": to = 0; break;
      case "End": to = last; break;
      case "Enter": case " ": event.preventDefault(); this.#open(from, to); return;
      default: return;
    }
    event.preventDefault();
    this.#go(Math.max(0, Math.min(last, from)), Math.max(0, Math.min(last, to)), true);
  }

  #go(from, to, focus) {
    if (this.#plane) {
      this.#at = [from, to];
      this.#point();
    } else {
      this.#cells[this.#at[0]][this.#at[1]].tabIndex = -1;
      this.#at = [from, to];
      this.#cells[from][to].tabIndex = 0;
      if (focus) this.#cells[from][to].focus();
    }
    this.#describe(from, to);
  }

  #drawTable() {
    this.#plane = undefined;
    const focused = this.#box.contains(document.activeElement);
    this.#cells = this.#nodes.map((_, from) => this.#nodes.map((_, to) => {
      const symbol = this.#symbol(from, to);
      return make("td", { role: "gridcell", tabindex: -1, class: "c-" + cellKind(symbol), "aria-label": pairWords(this.#nodes[from], this.#nodes[to]),
        mouseenter: () => this.#describe(from, to), focus: () => this.#at.join() !== `${from},${to}` && this.#go(from, to), click: () => this.#open(from, to) }, symbol);
    }));
    this.#box.replaceChildren(make("table", { class: "grid", role: "grid", "aria-label": "From each row's node to each column's", keydown: (e) => this.#key(e) },
      make("thead", {}, make("tr", {}, make("th", { class: "soft" }, "from ↓ to →"), this.#nodes.map((n) => make("th", { scope: "col", title: n.name }, make("span", {}, n.name))))),
      make("tbody", {}, this.#nodes.map((n, from) => make("tr", {}, make("th", { scope: "row", title: n.name }, n.name), this.#cells[from])))));
    if (this.#nodes.length === 0) return;
    this.#cells[this.#at[0]][this.#at[1]].tabIndex = 0;
    if (focused) this.#cells[this.#at[0]][this.#at[1]].focus();
  }

  #drawPlane() {
    if (!this.#plane) {
      const canvas = make("canvas", { tabindex: 0, role: "application", "aria-label": "Routes between nodes: the arrow keys move through the matrix, with Shift by ten; Enter opens the details", "aria-describedby": "matrix-cell",
        keydown: (e) => this.#key(e), focus: () => this.#go(...this.#at) });
      const cursor = make("div", { class: "cursor", hidden: "" });
      this.#plane = { canvas, cursor };
      canvas.addEventListener("mousemove", (e) => this.#under(e) && this.#go(...this.#under(e)));
      canvas.addEventListener("click", (e) => this.#under(e) && this.#open(...this.#under(e)));
      this.#box.replaceChildren(make("div", { class: "plane" }, canvas, cursor));
    }
    this.#paint();
  }

  // paint draws a dot for each pair, or for a block of pairs the worst one if there are too many.
  #paint() {
    const n = this.#nodes.length;
    const room = Math.max(240, Math.min(this.#box.clientWidth - 4, 600));
    this.#block = Math.ceil(n / room);
    const dots = Math.ceil(n / this.#block);
    this.#scale = Math.max(1, Math.floor(room / dots));
    const colors = Matrix.#colors();
    const { canvas } = this.#plane;
    canvas.width = canvas.height = dots;
    canvas.style.width = canvas.style.height = dots * this.#scale + "px";
    const image = new ImageData(dots, dots);
    const pixels = new Uint32Array(image.data.buffer);
    const worst = new Uint8Array(dots * dots);
    for (let from = 0; from < n; from++) {
      const { routes } = this.#nodes[from];
      for (let to = 0; to < n; to++) {
        const at = Math.floor(from / this.#block) * dots + Math.floor(to / this.#block);
        worst[at] = Math.max(worst[at], severity[routes[to]] ?? 5);
      }
    }
    const marked = this.#scale < 3 ? Matrix.#thick(worst, dots) : worst;
    for (let i = 0; i < marked.length; i++) pixels[i] = colors[marked[i]];
    canvas.getContext("2d").putImageData(image, 0, 0);
    this.#point();
  }

  // thick extends faults over the dots around them, so that one among thousands is visible.
  static #thick(worst, dots) {
    const marked = worst.slice();
    for (let i = 0; i < worst.length; i++) {
      if (worst[i] < severity.c) continue;
      const [x, y] = [i % dots, Math.floor(i / dots)];
      for (let v = Math.max(0, y - 1); v <= Math.min(dots - 1, y + 1); v++) {
        for (let u = Math.max(0, x - 1); u <= Math.min(dots - 1, x + 1); u++) {
          marked[v * dots + u] = Math.max(marked[v * dots + u], worst[i]);
        }
      }
    }
    return marked;
  }

  // colors returns the colors of the severities as a canvas has them.
  static #colors() {
    const style = getComputedStyle(document.documentElement);
    const context = make("canvas", { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
    return ["--card", "--line", "--ok-fill", "--soft", "--warn", "--bad"].map((name) => {
      context.fillStyle = style.getPropertyValue(name);
      context.fillRect(0, 0, 1, 1);
      return new Uint32Array(context.getImageData(0, 0, 1, 1).data.buffer)[0];
    });
  }

  #under(event) {
    const cell = (v) => Math.floor(v / this.#scale) * this.#block;
    const [from, to] = [cell(event.offsetY), cell(event.offsetX)];
    return from >= 0 && to >= 0 && from < this.#nodes.length && to < this.#nodes.length && this.#worst(from, to);
  }

  // worst returns the worst pair of a block.
  #worst(from, to) {
    let found = [from, to];
    for (let i = from; i < Math.min(from + this.#block, this.#nodes.length); i++) {
      for (let j = to; j < Math.min(to + this.#block, this.#nodes.length); j++) {
        if (severity[this.#symbol(i, j)] > severity[this.#symbol(...found)]) found = [i, j];
      }
    }
    return found;
  }

  #point() {
    const { cursor } = this.#plane;
    const [top, left] = this.#at.map((i) => Math.floor(i / this.#block) * this.#scale);
    cursor.hidden = false;
    Object.assign(cursor.style, { top: top - 1 + "px", left: left - 1 + "px", width: this.#scale + 4 + "px", height: this.#scale + 4 + "px" });
  }

  #legend() {
    const used = new Set(this.#nodes.flatMap((n) => [...new Set(n.routes)]));
    steady(byId("legend"), cellList.filter((c) => used.has(c.symbol)).map((c) => make("li", {}, make("b", { class: "c-" + cellKind(c.symbol) }, c.symbol), c.words)));
  }
}

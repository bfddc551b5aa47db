// Feed asks for JSON again and again, unless it is paused or nobody looks. What has not changed is not sent again.
class Feed {
  #url; #every; #handlers; #etag = ""; #timer = 0; #paused = false; #asking = false; #confirmed = 0; #failure = "";

  constructor(url, every, handlers) {
    [this.#url, this.#every, this.#handlers] = [url, every, handlers];
    document.addEventListener("visibilitychange", () => document.hidden || this.#ask());
    setInterval(() => this.#tell(), 1000);
    this.#ask();
  }

  get paused() { return this.#paused; }

  set paused(yes) {
    this.#paused = yes;
    yes ? this.#tell() : this.#ask();
  }

  async #ask() {
    if (this.#asking || this.#paused) return;
    this.#asking = true;
    clearTimeout(this.#timer);
    let wait = this.#every;
    try {
      const headers = this.#etag ? { Accept: "application/json", "If-None-Match": this.#etag } : { Accept: "application/json" };
      const answer = await fetch(this.#url, { headers, cache: "no-store", signal: AbortSignal.timeout(20000) });
      if (answer.status !== 200 && answer.status !== 304) {
        const why = (await answer.text()).trim().slice(0, 500);
        throw new Error(why || `it answers ${answer.status}`);
      }
      const data = answer.status === 200 ? await answer.json() : undefined;
      this.#etag = answer.headers.get("ETag") ?? "";
      [this.#confirmed, this.#failure] = [performance.now(), ""];
      wait = this.#handlers.data(data, answer.headers) ?? wait;
    } catch (error) {
      this.#failure = error instanceof TypeError ? "nothing answers" : error.name === "TimeoutError" ? "no answer for 20 s" : error.message;
      if (!(error instanceof TypeError) && error.name !== "TimeoutError") console.error(error);
    }
    this.#asking = false;
    this.#tell();
    this.#timer = setTimeout(() => document.hidden || this.#ask(), wait);
  }

  // tell says how old the data is, and whether more comes.
  #tell() {
    const age = this.#confirmed ? (performance.now() - this.#confirmed) / 1000 : NaN;
    this.#handlers.state({ age, failure: this.#failure, paused: this.#paused });
  }
}

// follow runs a Feed with the button that pauses it, and says in the page's head how old what it shows is.
function follow(url, every, who, data) {
  const feed = new Feed(url, every, {
    data(said, headers) {
      if (said) {
        byId("loading").hidden = true;
        document.querySelector("main").hidden = false; // first, for what is not laid out has no width to draw for
      }
      return data(said, headers);
    },
    state({ age, failure, paused }) {
      const known = !Number.isNaN(age);
      byId("age").textContent = known ? (paused ? "paused, " : "") + (age < 1.5 ? "as of now" : span(age) + " old") : "";
      byId("banner").hidden = !failure;
      if (!failure) return;
      byId("loading").textContent = `${who} does not answer: ${printable(failure)}. Trying again …`;
      const at = new Date(Date.now() - age * 1000);
      // It is read out whenever it changes, so it has no seconds that count.
      steady(byId("banner"), `${who} does not answer: ${failure}.` + (known ? ` What you see is of ${at.toLocaleTimeString()}.` : ""));
    },
  });
  byId("pause").addEventListener("click", (event) => {
    feed.paused = !feed.paused;
    event.currentTarget.setAttribute("aria-pressed", feed.paused);
    event.currentTarget.textContent = feed.paused ? "Go on" : "Pause";
  });
}

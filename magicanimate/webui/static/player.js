/* <ma-player data-clips='[...]'>: plays a result frame by frame, and compares it.

A clip is {src, strip, label, width, height, frames, fps, sound}. With one clip whose side by side video is there
(strip), a divider shows the result against the motion or the photo, both taken out of that one video, so that
they cannot run apart. With two clips the second follows the first.

<ma-download data-src data-name>: starts a download when it appears. */
(() => {
  if (customElements.get("ma-player")) return;

  const ICONS = {
    back: "M6 5h2v14H6zM19 5v14l-9-7z",
    play: "M7 4v16l13-8z",
    pause: "M6 4h4v16H6zM14 4h4v16h-4z",
    next: "M16 5h2v14h-2zM5 5v14l9-7z",
    loop: "M7 7h9v3l5-4-5-4v3H5v7h2zM17 17H8v-3l-5 4 5 4v-3h11v-7h-2z",
    loud: "M4 9v6h4l5 5V4L8 9zM16 8v8a5 5 0 0 0 0-8z",
    mute: "M4 9v6h4l5 5V4L8 9zM16 9l6 6m0-6-6 6",
    full: "M4 4h6v2H6v4H4zM14 4h6v6h-2V6h-4zM4 14h2v4h4v2H4zM18 14h2v6h-6v-2h4z",
  };
  const say = (text) => globalThis.maTexts?.[text] ?? text; // in the page's language
  const SPEEDS = [0.25, 0.5, 1, 2];
  const DRIFT = 0.08; // seconds that a second video may be off while it plays

  const make = (tag, className, attributes = {}) => {
    const element = document.createElement(tag);
    element.className = className;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  const icon = (name) => `<svg viewBox="0 0 24 24" aria-hidden="true"><path d="${ICONS[name]}"/></svg>`;
  const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

  class Player extends HTMLElement {
    static observedAttributes = ["data-clips"];

    /* The page compares its HTML with what is here and mends the difference: in a shadow root it finds none. */
    constructor() {
      super();
      this.attachShadow({ mode: "open" });
      this.shadowRoot.addEventListener("keydown", (event) => this.onKey(event));
    }

    connectedCallback() {
      if (!this.clips) this.build();
    }

    disconnectedCallback() {
      for (const video of this.videos()) video.pause();
    }

    attributeChangedCallback() {
      if (this.isConnected) this.build();
    }

    build() {
      for (const video of this.videos()) video.removeAttribute("src");
      this.made = [];
      this.lead = null;
      this.clips = JSON.parse(this.dataset.clips);
      this.split = 0.5;
      const style = make("style", "");
      style.textContent = globalThis.maPlayerStyle; // written into the page before this script
      const parts = [this.makeTabs(), this.makeStage(), this.makeControls()];
      this.shadowRoot.replaceChildren(style, ...parts);
      this.show(this.views[0].id);
      if (!calm()) this.play();
    }

    /* What can be looked at. `show`: the video to show as it is; `sides`: what the divider parts, as
    [video, region, label], a region being [left, width] in parts of the video; `row`: videos beside each other. */
    makeViews() {
      const [first, second] = this.clips;
      if (second) {
        const sides = [[this.video(0), [0, 1], first.label], [this.video(1), [0, 1], second.label]];
        return [
          { id: "slider", name: say("Divider"), sides },
          { id: "beside", name: say("Beside each other"), row: sides },
        ];
      }
      const views = [{ id: "result", name: say("Result"), show: () => this.video(0) }];
      if (!first.strip) return views;
      const strip = () => this.video(1);
      const third = (i) => {
        const total = strip().videoWidth || 3 * first.width + 8;
        const gap = (total - 3 * first.width) / 2;
        // A pixel less at either side: there the colours of the gap run into the picture.
        return [(i * (first.width + gap) + 1) / total, (first.width - 2) / total];
      };
      const against = (id, name, i) => ({
        id, name: say(`Against ${name}`),
        sides: [[strip, () => third(i), say(name)], [strip, () => third(2), say("result")]],
      });
      views.push(against("motion", "motion", 1), against("photo", "photo", 0));
      views.push({ id: "strip", name: say("Side by side"), show: strip });
      return views;
    }

    /* The i-th video, made when it is wanted first. */
    video(i) {
      if (!this.made[i]) {
        const src = i === 1 && this.clips.length === 1 ? this.clips[0].strip : this.clips[i].src;
        const video = make("video", "ma-video", { src, playsinline: "", preload: "auto" });
        video.muted = true;
        video.addEventListener("loadeddata", () => this.onLoaded());
        video.addEventListener("seeked", () => this.refresh());
        for (const name of ["play", "pause"]) video.addEventListener(name, () => this.onPlaying());
        this.frame.prepend(video);
        this.made[i] = video;
      }
      return this.made[i];
    }

    videos() {
      return (this.made ?? []).filter(Boolean);
    }

    makeTabs() {
      this.tabs = make("div", "ma-views", { role: "group", "aria-label": say("What is shown") });
      return this.tabs;
    }

    makeStage() {
      this.stage = make("div", "ma-stage", { tabindex: "0", role: "group", "aria-label": say("Video; space plays, comma and full stop step") });
      this.frame = make("div", "ma-frame");
      this.canvas = make("canvas", "ma-canvas");
      this.divider = make("div", "ma-divider", {
        role: "slider", tabindex: "0", "aria-label": say("Divider"), "aria-valuemin": "0", "aria-valuemax": "100",
      });
      this.labels = [make("span", "ma-label ma-left"), make("span", "ma-label ma-right")];
      this.frame.append(this.canvas, this.divider, ...this.labels);
      this.stage.append(this.frame);
      this.views = this.makeViews().map((view) => ({
        ...view,
        sides: view.sides?.map(([video, region, label]) => this.side(video, region, label)),
        row: view.row?.map(([video, region, label]) => this.side(video, region, label)),
      }));
      if (this.views.length > 1) {
        for (const view of this.views) {
          const button = make("button", "ma-view", { type: "button", "data-view": view.id });
          button.textContent = view.name;
          button.onclick = () => this.show(view.id);
          this.tabs.append(button);
        }
      }
      this.frame.addEventListener("pointerdown", (event) => this.onPointer(event));
      return this.stage;
    }

    side(video, region, label) {
      const given = (thing) => (typeof thing === "function" ? thing : () => thing);
      return { video: given(video), region: given(region), label };
    }

    makeControls() {
      const controls = make("div", "ma-controls");
      const button = (name, title, action, id = name) => {
        const made = make("button", `ma-icon ma-${id}`, { type: "button", title, "aria-label": title });
        made.innerHTML = icon(name);
        made.onclick = action;
        return made;
      };
      this.playButton = button("play", say("Play or pause (space)"), () => this.toggle());
      this.loopButton = button("loop", say("Repeat"), () => this.setLoop(!this.loop));
      this.muteButton = button("mute", say("Sound"), () => this.setMuted(!this.muted));
      this.muteButton.hidden = !this.clips.some((clip) => clip.sound);
      this.range = make("input", "ma-range", { type: "range", min: "0", step: "1", "aria-label": say("Frame") });
      this.range.oninput = () => this.goTo(Number(this.range.value));
      this.readout = make("span", "ma-readout");
      this.speed = make("select", "ma-speed", { "aria-label": say("Speed"), title: say("Speed") });
      for (const speed of SPEEDS) {
        const option = make("option", "", { value: speed });
        option.textContent = `${speed}×`;
        option.selected = speed === 1;
        this.speed.append(option);
      }
      this.speed.onchange = () => this.setSpeed();
      controls.append(
        button("back", say("One frame back (,)"), () => this.step(-1)),
        this.playButton,
        button("next", say("One frame on (.)"), () => this.step(1)),
        this.range, this.readout, this.loopButton, this.speed, this.muteButton,
        button("full", say("Full screen"), () => this.fullScreen()),
      );
      this.muted = true;
      return controls;
    }

    show(id) {
      const playing = this.lead && !this.lead.paused;
      const time = this.lead?.currentTime ?? 0;
      for (const video of this.videos()) video.pause();
      this.view = this.views.find((view) => view.id === id);
      const sides = this.view.sides ?? this.view.row;
      this.playing = sides ? [...new Set(sides.map((side) => side.video()))] : [this.view.show()];
      const longest = this.clips.length > 1 ? this.longest() : 0;
      this.lead = this.playing[longest] ?? this.playing[0];
      this.clip = this.clips[longest];
      this.range.max = Math.max(0, this.clip.frames - 1);
      for (const video of this.videos()) video.classList.toggle("ma-shown", this.view.show?.() === video);
      this.canvas.hidden = !sides;
      this.divider.hidden = !this.view.sides;
      this.labels.forEach((label, i) => {
        label.hidden = !sides;
        if (sides) label.textContent = sides[i].label;
      });
      for (const tab of this.tabs.children) tab.setAttribute("aria-pressed", tab.dataset.view === id);
      this.setLoop(this.loop ?? true);
      this.setMuted(this.muted);
      this.setSpeed();
      this.moveDivider(this.split);
      this.lead.currentTime = time;
      if (playing) this.play();
      this.refresh();
    }

    longest() {
      const seconds = this.clips.map((clip) => clip.frames / clip.fps);
      return seconds[1] > seconds[0] ? 1 : 0;
    }

    setLoop(loop) {
      this.loop = loop;
      for (const video of this.videos()) video.loop = loop && video === this.lead;
      this.loopButton.setAttribute("aria-pressed", loop);
    }

    setMuted(muted) {
      this.muted = muted;
      for (const video of this.videos()) video.muted = muted || video !== this.lead;
      this.muteButton.innerHTML = icon(muted ? "mute" : "loud");
      this.muteButton.setAttribute("aria-pressed", !muted);
    }

    setSpeed() {
      for (const video of this.videos()) video.playbackRate = Number(this.speed.value);
    }

    play() {
      // Refused while another video takes its place, or by the browser: then the button is there.
      for (const video of this.playing) video.play().catch(() => this.onPlaying());
    }

    pause() {
      for (const video of this.playing) video.pause();
    }

    toggle() {
      if (this.lead.paused) this.play();
      else this.pause();
    }

    frameNow() {
      const frame = Math.floor(this.lead.currentTime * this.clip.fps + 1e-3);
      return Math.min(Math.max(frame, 0), Math.max(0, this.clip.frames - 1));
    }

    step(count) {
      this.pause();
      const frames = Math.max(1, this.clip.frames);
      this.goTo((this.frameNow() + count + frames) % frames);
    }

    /* The middle of a frame, since its edges may round to the one beside it. */
    goTo(frame) {
      this.lead.currentTime = (frame + 0.5) / this.clip.fps;
      this.follow();
      this.refresh();
    }

    /* The other video at the same moment; its last frame stays when it is over. */
    follow() {
      for (const video of this.playing) {
        if (video === this.lead || !video.duration) continue;
        const last = Math.max(0, video.duration - 0.02);
        const wanted = Math.min(this.lead.currentTime, last);
        const off = Math.abs(video.currentTime - wanted);
        if (this.lead.paused ? off > 1e-3 : off > DRIFT) video.currentTime = wanted;
        if (this.lead.paused) video.pause();
        else if (video.paused && wanted < last) video.play().catch(() => this.onPlaying());
      }
    }

    /* A video that comes late goes to where the other one was paused. */
    onLoaded() {
      if (this.lead?.paused) this.follow();
      this.refresh();
    }

    onPlaying() {
      const paused = this.lead.paused;
      this.playButton.innerHTML = icon(paused ? "play" : "pause");
      if (paused) this.follow();
      else this.tick();
      this.refresh();
    }

    tick() {
      if (this.ticking) return;
      this.ticking = requestAnimationFrame(() => {
        this.ticking = null;
        if (!this.isConnected || this.lead.paused) return;
        this.follow();
        this.refresh();
        this.tick();
      });
    }

    refresh() {
      if (!this.lead) return;
      this.fitFrame();
      this.paint();
      const frame = this.frameNow();
      this.range.value = frame;
      this.readout.textContent = `${frame + 1} / ${this.clip.frames}`;
    }

    /* Width and height of what is shown, in pixels of the video. */
    extent() {
      const { width, height } = this.clips[0];
      if (this.view.id === "strip") return [this.lead.videoWidth || 3 * width, this.lead.videoHeight || height];
      if (this.view.row) {
        const second = this.clips[1];
        return [width + Math.round((second.width * height) / second.height), height];
      }
      return [width, height];
    }

    fitFrame() {
      const [width, height] = this.extent();
      this.frame.style.setProperty("--ma-aspect", width / height);
    }

    paint() {
      const sides = this.view.sides ?? this.view.row;
      if (!sides) return;
      const [width, height] = this.extent();
      const sharp = Math.max(1, Math.ceil((this.frame.clientWidth * devicePixelRatio) / width)); // no blur twice
      if (this.canvas.width !== width * sharp) this.canvas.width = width * sharp;
      if (this.canvas.height !== height * sharp) this.canvas.height = height * sharp;
      const context = this.canvas.getContext("2d");
      context.imageSmoothingQuality = "high";
      const first = this.view.row ? this.clips[0].width / width : this.split;
      sides.forEach((side, i) => {
        const video = side.video();
        if (video.readyState < 2) return;
        const [left, part] = side.region();
        const edges = i ? [first, 1] : [0, first];
        const [x0, x1] = edges.map((edge) => Math.round(edge * this.canvas.width));
        const place = this.view.row ? [x0, x1 - x0] : [0, this.canvas.width];
        context.save();
        context.beginPath();
        context.rect(x0, 0, x1 - x0, this.canvas.height);
        context.clip();
        context.drawImage(
          video, left * video.videoWidth, 0, part * video.videoWidth, video.videoHeight,
          place[0], 0, place[1], this.canvas.height,
        );
        context.restore();
      });
    }

    moveDivider(split) {
      this.split = Math.min(1, Math.max(0, split));
      this.divider.style.left = `${100 * this.split}%`;
      this.divider.setAttribute("aria-valuenow", Math.round(100 * this.split));
      this.paint();
    }

    onPointer(event) {
      if (event.button !== 0) return;
      if (!this.view.sides) {
        this.toggle();
        return;
      }
      event.preventDefault();
      this.divider.focus({ preventScroll: true });
      const box = this.frame.getBoundingClientRect();
      const move = (at) => this.moveDivider((at.clientX - box.left) / box.width);
      this.frame.setPointerCapture(event.pointerId);
      move(event);
      this.frame.onpointermove = move;
      this.frame.onpointerup = this.frame.onpointercancel = () => {
        this.frame.onpointermove = null;
      };
    }

    onKey(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const onDivider = event.target === this.divider;
      const actions = { ",": () => this.step(-1), ".": () => this.step(1) };
      if (event.target === this.stage || onDivider) actions[" "] = () => this.toggle();
      if (onDivider) {
        actions.ArrowLeft = () => this.moveDivider(this.split - 0.02);
        actions.ArrowRight = () => this.moveDivider(this.split + 0.02);
      }
      if (!actions[event.key]) return;
      event.preventDefault();
      event.stopPropagation();
      actions[event.key]();
    }

    fullScreen() {
      if (document.fullscreenElement) document.exitFullscreen();
      else this.requestFullscreen?.();
    }
  }

  class Download extends HTMLElement {
    static observedAttributes = ["data-src"];

    attributeChangedCallback() {
      make("a", "", { href: this.dataset.src, download: this.dataset.name }).click();
    }
  }

  /* Comma and full stop also work when nothing in particular has the focus. */
  document.addEventListener("keydown", (event) => {
    if (event.target !== document.body || !",.".includes(event.key)) return;
    const seen = [...document.querySelectorAll("ma-player")].filter((player) => player.offsetParent);
    if (seen.length) seen[0].onKey(event);
  });

  customElements.define("ma-player", Player);
  customElements.define("ma-download", Download);
})();

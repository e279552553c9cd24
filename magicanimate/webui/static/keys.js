// What the page does by itself in the browser: keys, the tab's title, gifs, names that Gradio leaves out.
() => {
  // Gradio describes an empty place by a label, which only counts on something that has a role.
  const nameAll = () =>
    document
      .querySelectorAll(".empty[aria-label]:not([role])")
      .forEach((place) => place.setAttribute("role", "img"));
  // Names that Gradio gives in English only, and to sliders in other words than those above them.
  const REMOVE = "button.ma-remove, button[aria-label='Remove Image']";
  const translate = () => {
    document.querySelectorAll(REMOVE).forEach((button) => button.classList.add("ma-remove"));
    for (const english of ["File upload", "Remove Image", "Remove this file", "Reset to default value"]) {
      const said = globalThis.maTexts?.[english] ?? english;
      if (said === english) continue;
      document.querySelectorAll(`[aria-label="${english}"]`).forEach((named) => (named.ariaLabel = said));
      document.querySelectorAll(`[title="${english}"]`).forEach((named) => (named.title = said));
    }
    document
      .querySelectorAll("[aria-label^='number input for '], [aria-label^='range slider for ']")
      .forEach((input) => (input.ariaLabel = input.ariaLabel.replace(/^.+? for /, "")));
  };

  // The tab says how far the video is, and that it is done until somebody looks.
  const READY = globalThis.maTexts?.["Your video is ready."] ?? "Your video is ready."; // in the page's language
  const NAME = "MagicAnimate";
  const SOUND = "magicanimate-sound";
  let running = false;
  // Two soft notes, made here: there is no file to fetch.
  const chime = () => {
    const audio = new AudioContext();
    [660, 880].forEach((pitch, i) => {
      const [note, volume, at] = [audio.createOscillator(), audio.createGain(), audio.currentTime + i * 0.18];
      note.frequency.value = pitch;
      volume.gain.setValueAtTime(0.2, at);
      volume.gain.exponentialRampToValueAtTime(0.001, at + 0.6);
      note.connect(volume).connect(audio.destination);
      note.start(at);
      note.stop(at + 0.6);
    });
    document.body.dataset.chimed = Number(document.body.dataset.chimed ?? 0) + 1;
  };
  const title = () => {
    const bar = document.querySelector("#status [role=progressbar]");
    if (bar) {
      document.title = `${bar.getAttribute("aria-valuenow")} % · ${NAME}`;
    } else if (running && document.querySelector("#status .ma-done")) {
      if (localStorage.getItem(SOUND)) chime();
      document.title = document.hidden ? `✓ ${READY} · ${NAME}` : NAME;
      if (document.hidden && globalThis.Notification?.permission === "granted")
        new Notification(NAME, { body: READY });
    } else if (running) {
      document.title = NAME;
    }
    running = Boolean(bar);
  };
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && !running) document.title = NAME;
  });
  document.addEventListener("click", (event) => {
    if (event.target.closest("[data-notify]")) Notification.requestPermission().then(look);
    if (event.target.closest("[data-sound]")) {
      if (localStorage.getItem(SOUND)) localStorage.removeItem(SOUND);
      else localStorage.setItem(SOUND, "yes");
      offerSound();
    }
  });
  const offerNotes = () =>
    document.querySelectorAll("[data-notify]").forEach((button) => {
      button.hidden = globalThis.Notification?.permission !== "default";
    });
  const offerSound = () =>
    document
      .querySelectorAll("[data-sound]")
      .forEach((button) => button.setAttribute("aria-pressed", String(Boolean(localStorage.getItem(SOUND)))));

  // Gradio's video takes nothing that calls itself a picture; animated ones are clips, and the program reads them.
  const pictures = [".gif", ".png", ".apng", ".webp", ".avif", ".jxl"];
  const isPicture = (file) => pictures.some((suffix) => file.name.toLowerCase().endsWith(suffix));
  document.addEventListener(
    "change",
    (event) => {
      const input = event.target;
      const file = input.matches?.("#motion input[type=file], #dp-clip input[type=file]") && input.files[0];
      if (file && isPicture(file) && !file.type.startsWith("video/")) input.files = asVideo(file);
    },
    true,
  );
  document.addEventListener(
    "drop",
    (event) => {
      const place = event.target.closest?.("#motion, #dp-clip");
      const file = event.dataTransfer?.files[0];
      if (!place || !file || !isPicture(file)) return;
      const input = place.querySelector("input[type=file]");
      if (!input) return;
      event.preventDefault();
      event.stopPropagation();
      input.files = asVideo(file);
      input.dispatchEvent(new Event("change", { bubbles: true }));
    },
    true,
  );
  const asVideo = (file) => {
    const files = new DataTransfer();
    files.items.add(new File([file], file.name, { type: "video/animation" }));
    return files.files;
  };
  const acceptPictures = () =>
    document.querySelectorAll("#motion input[type=file], #dp-clip input[type=file]").forEach((input) => {
      if (!input.accept.includes(".gif")) input.accept += `,${pictures}`;
    });

  // A picture that is pasted is the photo, in the place of the one that is there.
  document.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find((each) => each.type.startsWith("image/"));
    const photo = document.querySelector("#photo");
    if (!file || !photo?.offsetParent) return;
    event.preventDefault();
    photo.querySelector(REMOVE)?.click();
    let tries = 50;
    const put = () => {
      const input = photo.querySelector("input[type=file]");
      if (!input) {
        if (tries--) setTimeout(put, 50);
        return;
      }
      const files = new DataTransfer();
      files.items.add(file);
      input.files = files.files;
      input.dispatchEvent(new Event("change", { bubbles: true }));
    };
    put();
  });

  const look = () => {
    nameAll();
    translate();
    title();
    offerNotes();
    offerSound();
    acceptPictures();
  };
  look();
  new MutationObserver(look).observe(document.body, { childList: true, subtree: true, characterData: true });

  // Ctrl+Enter (on a Mac also Cmd+Enter) presses Animate wherever the focus is, as long as its tab is shown.
  const animate = () => document.querySelector("#animate");
  animate().title = "Ctrl+Enter";
  animate().setAttribute("aria-keyshortcuts", "Control+Enter");
  document.addEventListener(
    "keydown",
    (event) => {
      const button = animate();
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || !button?.offsetParent) return;
      event.preventDefault();
      event.stopPropagation(); // a text field would take it as the end of its input
      if (!event.repeat && !button.disabled) button.click();
    },
    true,
  );
}

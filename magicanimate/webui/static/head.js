// Gradio's own words stay in the browser's language, which it asks for before this runs.
document.documentElement.lang = maLanguage;

// Gradio's video widget fetches an ffmpeg of 32 MB to cut clips in the browser. Here they are cut by the program
// ("From second", "To second"), so that request is never made: whoever waits for its answer waits in vain.
const fetchAnything = globalThis.fetch;
globalThis.fetch = (resource, ...options) =>
  /\/ffmpeg-core\.(js|wasm)$/.test(resource?.url ?? resource)
    ? new Promise(() => {})
    : fetchAnything(resource, ...options);

// Gradio fetches the styles of each kind of widget by themselves, unless there is a link to them. Here all come in
// one file, the first of the names, and the links to the others are there but disabled, so that nothing is fetched.
for (const [number, name] of maStyleSheets.entries()) {
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = new URL(`assets/${name}`, document.baseURI).href;
  if (number > 0) link.setAttribute("disabled", "");
  document.head.append(link);
}

// What somebody has changed since the page was opened, by the ids of the places in which that was done. What the
// browser kept of the form comes a moment later (remember.js), and leaves these alone.
globalThis.maTouched = new Set();
for (const kind of ["input", "change", "drop", "mousedown", "click"]) // no touch: that may be scrolling
  document.addEventListener(
    kind,
    ({ target }) => {
      for (let place = target; place; place = place.parentElement) if (place.id) maTouched.add(place.id);
    },
    true,
  );

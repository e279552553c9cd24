// Gradio's own words stay in the browser's language, which it asks for before this runs.
document.documentElement.lang = maLanguage;

// Gradio's video widget fetches an ffmpeg of 32 MB to cut clips in the browser. Here they are cut by the program
// ("From second", "To second"), so that request is never made: whoever waits for its answer waits in vain.
const fetchAnything = globalThis.fetch;
globalThis.fetch = (resource, ...options) =>
  /\/ffmpeg-core\.(js|wasm)$/.test(resource?.url ?? resource)
    ? new Promise(() => {})
    : fetchAnything(resource, ...options);

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

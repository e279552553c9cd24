// Gradio's own words stay in the browser's language, which it asks for before this runs.
document.documentElement.lang = maLanguage;

// Gradio's video widget fetches an ffmpeg of 32 MB to cut clips in the browser. Here they are cut by the program
// ("From second", "To second"), so that request is never made: whoever waits for its answer waits in vain.
const fetchAnything = globalThis.fetch;
globalThis.fetch = (resource, ...options) =>
  /\/ffmpeg-core\.(js|wasm)$/.test(resource?.url ?? resource)
    ? new Promise(() => {})
    : fetchAnything(resource, ...options);

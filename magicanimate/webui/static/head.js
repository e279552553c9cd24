// What must be so before Gradio's own scripts run.

// Gradio's own words, such as those in empty places for files, are in the browser's language unless it is told
// another one: that of the page.
document.documentElement.lang = maLanguage;
for (const [name, value] of [["language", maLanguage], ["languages", [maLanguage]]])
  Object.defineProperty(navigator, name, { get: () => value });

// Gradio's video widget fetches an ffmpeg of 32 MB to cut clips in the browser. Here they are cut by the program
// ("From second", "To second"), so that request is never made: whoever waits for its answer waits in vain.
const fetchAnything = globalThis.fetch;
globalThis.fetch = (resource, ...options) =>
  /\/ffmpeg-core\.(js|wasm)$/.test(resource?.url ?? resource)
    ? new Promise(() => {})
    : fetchAnything(resource, ...options);

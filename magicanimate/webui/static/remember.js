// Keeps the form's values in the browser and puts them back after a reload: files by their addresses, if these are
// still served, and only what nobody has changed since the page was opened. NAMES are the names of all values, PLACES
// the ids of what changes each of them, OLD maps the names of earlier versions to those of today.
(NAMES, PLACES, OLD) => {
  const KEY = "magicanimate-form";
  // Which model runs, and its own settings. The page may have been built when another one ran.
  const model = () => document.querySelector("#checkpoint [data-model]")?.dataset;
  // With its settings, which another version of the same model may have others of.
  const version = () => (model()?.model ?? "") + (model()?.settings ?? "");
  const files = (value) => [value].flat().map((each) => each?.url ?? each?.video?.url).filter(Boolean);
  return {
    keep: (...values) => {
      if (!globalThis.maFormIsBack) return; // the form is still being filled
      const kept = Object.fromEntries(NAMES.map((name, i) => [name, values[i]]));
      localStorage.setItem(KEY, JSON.stringify({ model: version(), values: kept }));
    },
    restore: async () => {
      // As gr.skip(): what was typed while this waits must not be replaced by what was there when it began.
      const asItIs = { __type__: "update" };
      try {
        for (let tries = 50; tries && !model(); tries--) await new Promise((go) => setTimeout(go, 20));
        const own = JSON.parse(model()?.settings ?? "{}");
        const kept = JSON.parse(localStorage.getItem(KEY) ?? "null") ?? { values: {} };
        for (const [old, name] of Object.entries(OLD)) {
          const value = kept.values[old];
          if (value !== undefined) kept.values[name] ??= old === "windows" ? value === "ring" : value;
        }
        const values = await Promise.all(
          NAMES.map(async (name) => {
            const value = kept.values[name];
            if (value === undefined || (name in own && kept.model !== version())) return own[name] ?? asItIs;
            const there = await Promise.all(
              files(value).map((url) => fetch(url, { method: "HEAD" }).catch(() => null)),
            );
            return there.every((each) => each?.ok) ? value : asItIs;
          }),
        );
        // Edits of a clip that is not there any more would be done to another one.
        const lost = values[NAMES.indexOf("motion")] === asItIs ? ["motion"] : [];
        const stays = (places) => places.some((place) => maTouched.has(place) || lost.includes(place));
        return values.map((value, i) => (stays(PLACES[i]) ? asItIs : value));
      } catch {
        return NAMES.map(() => asItIs);
      } finally {
        globalThis.maFormIsBack = true;
      }
    },
  };
}

// Keeps the form's values in the browser and puts them back after a reload: files by their addresses, if these are
// still served, and only what nobody has changed since the page was opened. NAMES are the names of all values, PLACES
// the ids of what changes each of them, OF_MODEL the names of those whose defaults differ from model to model, OLD
// maps the names of earlier versions to those of today.
(NAMES, PLACES, OF_MODEL, OLD) => {
  const KEY = "magicanimate-form";
  const model = () => document.querySelector("#checkpoint [data-model]")?.dataset.model ?? "";
  const files = (value) => [value].flat().map((each) => each?.url ?? each?.video?.url).filter(Boolean);
  return {
    keep: (...values) => {
      if (!globalThis.maFormIsBack) return; // the form is still being filled
      const kept = Object.fromEntries(NAMES.map((name, i) => [name, values[i]]));
      localStorage.setItem(KEY, JSON.stringify({ model: model(), values: kept }));
    },
    restore: async () => {
      // As gr.skip(): what was typed while this waits must not be replaced by what was there when it began.
      const asItIs = { __type__: "update" };
      try {
        const kept = JSON.parse(localStorage.getItem(KEY) ?? "null");
        if (!kept) return NAMES.map(() => asItIs);
        for (const [old, name] of Object.entries(OLD)) {
          const value = kept.values[old];
          if (value !== undefined) kept.values[name] ??= old === "windows" ? value === "ring" : value;
        }
        const values = await Promise.all(
          NAMES.map(async (name) => {
            const value = kept.values[name];
            if (value === undefined || (OF_MODEL.includes(name) && kept.model !== model())) return asItIs;
            const there = await Promise.all(
              files(value).map((url) => fetch(url, { method: "HEAD" }).catch(() => null)),
            );
            return there.every((each) => each?.ok) ? value : asItIs;
          }),
        );
        return values.map((value, i) => (PLACES[i].some((place) => maTouched.has(place)) ? asItIs : value));
      } catch {
        return NAMES.map(() => asItIs);
      } finally {
        globalThis.maFormIsBack = true;
      }
    },
  };
}

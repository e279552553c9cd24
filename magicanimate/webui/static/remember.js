// The form outlives a reload: its values are kept by the browser, files by their addresses, and put back if these
// are still there and nobody has changed the same value since the page was opened. NAMES are those of the values,
// PLACES the ids of what changes each of them, OWN the names of those that each model has its own for, OLD says what
// values that an earlier version kept are called now.
(NAMES, PLACES, OWN, OLD) => {
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
            if (value === undefined || (OWN.includes(name) && kept.model !== model())) return asItIs;
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

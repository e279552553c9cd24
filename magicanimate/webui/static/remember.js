// The form outlives a reload: its values are kept by the browser, files by their addresses, and put back if these
// are still there. NAMES are those of the values, OWN of those that each model has its own for, OLD says what values
// that an earlier version kept are called now.
(NAMES, OWN, OLD) => {
  const KEY = "magicanimate-form";
  const model = () => document.querySelector("#checkpoint [data-model]")?.dataset.model ?? "";
  const files = (value) => [value].flat().map((each) => each?.url ?? each?.video?.url).filter(Boolean);
  return {
    keep: (...values) => {
      if (!globalThis.maFormIsBack) return; // the form is still being filled
      const kept = Object.fromEntries(NAMES.map((name, i) => [name, values[i]]));
      localStorage.setItem(KEY, JSON.stringify({ model: model(), values: kept }));
    },
    restore: async (...now) => {
      try {
        const kept = JSON.parse(localStorage.getItem(KEY) ?? "null");
        if (!kept) return now;
        for (const [old, name] of Object.entries(OLD)) {
          const value = kept.values[old];
          if (value !== undefined) kept.values[name] ??= old === "windows" ? value === "ring" : value;
        }
        const values = await Promise.all(
          NAMES.map(async (name, i) => {
            const value = kept.values[name];
            if (value === undefined || (OWN.includes(name) && kept.model !== model())) return now[i];
            const there = await Promise.all(
              files(value).map((url) => fetch(url, { method: "HEAD" }).catch(() => null)),
            );
            return there.every((each) => each?.ok) ? value : now[i];
          }),
        );
        return values;
      } catch {
        return now;
      } finally {
        globalThis.maFormIsBack = true;
      }
    },
  };
}

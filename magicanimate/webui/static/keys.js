// What the page does by itself in the browser: names for what Gradio leaves without one, and keys.
() => {
  const nameAll = () => {
    document
      .querySelectorAll("#examples .gallery-item:not([aria-label])")
      .forEach((button, index) => button.setAttribute("aria-label", `Example ${index + 1}`));
    // Gradio describes an empty place by a label, which only counts on something that has a role.
    document
      .querySelectorAll(".empty[aria-label]:not([role])")
      .forEach((place) => place.setAttribute("role", "img"));
  };
  nameAll();
  new MutationObserver(nameAll).observe(document.body, { childList: true, subtree: true });

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

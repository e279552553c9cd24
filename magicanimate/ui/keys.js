// Ctrl+Enter (on a Mac also Cmd+Enter) presses Animate wherever the focus is, as long as its tab is shown.
() => {
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

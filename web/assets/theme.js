// Sets the chosen colours before the first paint. Runs in the head, so that nothing flashes.
(() => {
  try {
    const theme = localStorage.getItem("fanfare-theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch {
    // Storage may be off; then the system's colours are used.
  }
})();

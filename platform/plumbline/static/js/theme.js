// Loaded before the first paint, so that a chosen theme never flashes. The choice lives in this browser alone.
(() => {
  try {
    const theme = localStorage.getItem("plumbline-theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch {
    // Storage is closed to us: the system's theme stays.
  }
})();
// Style sheets tell pages with scripts from those without.
document.documentElement.dataset.js = "";
